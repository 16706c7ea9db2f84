"""The command that adds sample data to the shop."""

from __future__ import annotations

import random
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from testproject.shop.models import Customer, Order, Product
from testproject.shop.ordering import place_random_order

CUSTOMERS = [
    ("Ada", "Lovelace"),
    ("Grace", "Hopper"),
    ("Alan", "Turing"),
    ("Katherine", "Johnson"),
    ("Edsger", "Dijkstra"),
    ("Barbara", "Liskov"),
]
PRODUCTS = {
    "Espresso beans": [890, 1690, 3190],
    "Filter coffee": [790, 1490],
    "Hand grinder": [5900],
    "Stoneware cup": [1200, 1600],
    "Paper filters": [350],
    "Pour-over kettle": [4900, 6400],
}
ORDERS = 5


class Command(BaseCommand):
    """Add the sample data that is missing, and leave existing data unchanged."""

    help = "Add a demo user, customers, products and orders, where they are missing."

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Write one line for each kind of object."""
        users = get_user_model().objects
        if not users.filter(username="demo").exists():
            users.create_superuser(username="demo", password="demo")
        if not users.filter(username="ada").exists():
            users.create_user(username="ada", password="ada")
        self.stdout.write("User: ada (password ada)")
        self.stdout.write("User: demo (password demo, may use the admin)")

        for first_name, last_name in CUSTOMERS:
            if not Customer.objects.filter(first_name=first_name, last_name=last_name).exists():
                Customer.objects.create(first_name=first_name, last_name=last_name)
        self.stdout.write(f"Customers: {Customer.objects.count()}")

        for name, prices in PRODUCTS.items():
            if not Product.objects.filter(name=name).exists():
                Product.objects.create(name=name, prices=prices)
        self.stdout.write(f"Products: {Product.objects.count()}")

        for _ in range(ORDERS - Order.objects.count()):
            place_random_order(random.choice(Order.Status.values))
        self.stdout.write(f"Orders: {Order.objects.count()}")
