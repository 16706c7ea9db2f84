"""Random orders for the demo."""

from __future__ import annotations

import random
from decimal import Decimal

from .models import Customer, Order, Product


def place_random_order(status: str = Order.Status.NEW) -> Order | None:
    """Save and return an order of some product by some customer.

    Returns ``None`` where the shop has no customer, or no product with a price.
    """
    customers = list(Customer.objects.all())
    products = [product for product in Product.objects.all() if product.prices]
    if not customers or not products:
        return None
    product = random.choice(products)
    quantity = random.randint(1, 5)
    return Order.objects.create(
        customer=random.choice(customers),
        product=product,
        quantity=quantity,
        status=status,
        total=Decimal(random.choice(product.prices) * quantity) / 100,
    )
