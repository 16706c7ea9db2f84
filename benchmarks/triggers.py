"""What the triggers of ``stream_triggers()`` add to a statement of PostgreSQL.

``python -m benchmarks.triggers PORT COUNT`` prints the seconds that each statement takes, with its
commit, for a table without triggers and for one with them, in turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.support.postgres_server import program

from . import machine
from .brokers import postgres
from .context import Context
from .report import Result
from .servers import ROOT

_TABLE = """
CREATE TABLE {0} (id bigserial PRIMARY KEY, user_id integer NOT NULL, group_id integer NOT NULL);
INSERT INTO {0} (user_id, group_id) SELECT n, n % 10 FROM generate_series(1, 20000) n;
"""
_STATEMENTS = {
    "INSERT of a row": "INSERT INTO {0} (user_id, group_id) VALUES (1, 1)",
    "UPDATE of a row": "UPDATE {0} SET user_id = user_id + 1 WHERE id = %(n)s",
    "DELETE of a row": "DELETE FROM {0} WHERE id = 15000 + %(n)s",
    "UPDATE of 1,000 rows": "UPDATE {0} SET user_id = user_id + 1 WHERE id <= 1000",
    "UPDATE of 10,000 rows": "UPDATE {0} SET user_id = user_id + 1 WHERE id <= 10000",
}


def measure(context: Context) -> Iterator[Result]:
    """Compare statements on a table with and without the triggers, in one run."""
    if program("initdb") is None:
        print("triggers: left out, since it needs PostgreSQL.", file=sys.stderr)
        return
    for setting in ("on", "off"):
        with postgres(synchronous_commit=setting) as server:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.triggers"),
                    *(str(server.port), str(context.size(300, 50))),
                ],
                cwd=ROOT,
                env={**os.environ, **context.environment},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        for what, (plain, told) in json.loads(done.stdout).items():
            note = f"{(told - plain) * 1e6:.0f} µs more"
            label = f"PostgreSQL (synchronous_commit={setting}): {what} with triggers"
            yield Result(label, "", told * 1e6, plain * 1e6, "µs", note=note)


def _main(port: str, count: int) -> None:
    import django  # noqa: PLC0415 - only this process has Django's settings
    import psycopg  # noqa: PLC0415

    django.setup()
    from django.contrib.auth.models import User  # noqa: PLC0415

    from django_sse.contrib.pgtrigger import stream_triggers  # noqa: PLC0415
    from django_sse.rows import change_table  # noqa: PLC0415

    through: Any = User.groups.through
    found: dict[str, tuple[float, float]] = {}
    where = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    machine.pin(machine.cores()[1])
    with psycopg.connect(where, autocommit=True) as connection:
        for table in ("plain", "told"):
            connection.execute(_TABLE.format(table))  # type: ignore[call-overload]
        connection.execute(change_table.create_statements("public"))  # type: ignore[call-overload]
        for trigger in stream_triggers():
            # Both tables are shaped as this model's.
            sql = trigger.compile(through).install_sql.replace('"auth_user_groups"', "told")
            connection.execute(sql)  # type: ignore[call-overload]
        connection.execute("ANALYZE")
        for what, statement in _STATEMENTS.items():
            times: dict[str, list[float]] = {"plain": [], "told": []}
            for n in range(count if "," not in what else max(count // 10, 5)):
                for table, kept in times.items():
                    begun = time.perf_counter()
                    connection.execute(statement.format(table), {"n": n + 1})  # type: ignore[call-overload]
                    kept.append(time.perf_counter() - begun)
            plain, told = (sorted(kept)[len(kept) // 2] for kept in times.values())
            found[what] = plain, told
    print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
