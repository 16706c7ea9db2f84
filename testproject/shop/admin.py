"""The shop's admin. An order that is saved here arrives on the live page too."""

from django.contrib import admin

from .models import Customer, Order, Product


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    """Customers by name."""

    list_display = ["last_name", "first_name"]
    search_fields = ["last_name", "first_name"]


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products with their prices."""

    list_display = ["name", "prices"]
    search_fields = ["name"]


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """Orders, the newest first."""

    list_display = ["id", "customer", "product", "quantity", "status", "total", "created"]
    list_filter = ["status"]
    list_select_related = ["customer", "product"]
    ordering = ["-id"]
