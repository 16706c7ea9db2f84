"""The serializers of the shop's objects, and of the data that clients send."""

from __future__ import annotations

from rest_framework import serializers

from django_sse import serializes

from .models import Customer, Import, Order, Product


@serializes(Customer)
class CustomerSerializer(serializers.ModelSerializer):
    """A customer with both names."""

    class Meta:
        model = Customer
        fields = ["id", "first_name", "last_name"]


@serializes(Product)
class ProductSerializer(serializers.ModelSerializer):
    """A product with its prices in cents."""

    class Meta:
        model = Product
        fields = ["id", "name", "prices"]


@serializes(Order)
class OrderSerializer(serializers.ModelSerializer):
    """An order with the names of its customer and product.

    Load orders with ``select_related("customer", "product")``: a stream cannot query for a missing
    customer or product while it serializes.
    """

    customer = serializers.StringRelatedField()
    product = serializers.CharField(source="product.name", read_only=True)

    class Meta:
        model = Order
        fields = ["id", "customer", "product", "quantity", "status", "total", "created"]


@serializes(Import)
class ImportSerializer(serializers.ModelSerializer):
    """The progress of an import."""

    class Meta:
        model = Import
        fields = ["id", "total", "done", "cancelled"]


class PromptSerializer(serializers.Serializer):
    """The body of a request to the text generator."""

    prompt = serializers.CharField(max_length=2000)
