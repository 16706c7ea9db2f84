// Writes what is wrong with the AsyncAPI document of a file, as a list of [severity, path, message].
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [packages, file] = process.argv.slice(2);
const { Parser } = createRequire(`${packages}/`)("@asyncapi/parser");

const diagnostics = await new Parser().validate(readFileSync(file, "utf8"));
console.log(JSON.stringify(diagnostics.map((it) => [it.severity, it.path.join("/"), it.message])));
