"""The shop's models: customers, products, imports and orders."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone


def validate_prices(value: Any) -> None:
    """Raise ``ValidationError`` unless ``value`` is a list of whole numbers ≥ 0."""
    if not isinstance(value, list) or not value:
        raise ValidationError("Enter a list of prices in cents, such as [100, 200].")
    for price in value:
        if isinstance(price, bool) or not isinstance(price, int) or price < 0:
            raise ValidationError(
                "%(price)r is not a price: enter whole numbers of cents, such as [100, 200].",
                params={"price": price},
            )


class Customer(models.Model):
    """A customer of the shop."""

    first_name = models.CharField(max_length=100)
    last_name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return f"{self.first_name} {self.last_name}"


class Product(models.Model):
    """A product of the shop. ``prices`` are whole numbers of cents, one for each size."""

    name = models.CharField(max_length=100)
    prices = models.JSONField(default=list, validators=[validate_prices])

    def __str__(self) -> str:
        return self.name


class Import(models.Model):
    """A long job: ``done`` of ``total`` rows are imported. ``manage.py backstage`` works on it."""

    total = models.PositiveIntegerField(default=150)
    done = models.PositiveIntegerField(default=0)
    cancelled = models.BooleanField(default=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"Import {self.pk}"

    @property
    def is_over(self) -> bool:
        """Whether the import is complete or cancelled."""
        return self.cancelled or self.done >= self.total


class Order(models.Model):
    """A customer's order of one product."""

    class Status(models.TextChoices):
        """The steps of an order."""

        NEW = "new", "New"
        PAID = "paid", "Paid"
        SHIPPED = "shipped", "Shipped"

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    quantity = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.NEW)
    total = models.DecimalField(max_digits=10, decimal_places=2, validators=[MinValueValidator(0)])
    created = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"Order {self.pk}"

    @property
    def next_status(self) -> str | None:
        """The status after this one; ``None`` after the last one."""
        statuses = [it.value for it in self.Status]
        return dict(pairwise(statuses)).get(self.status)
