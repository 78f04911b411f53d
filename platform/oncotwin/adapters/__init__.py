"""The only place that knows a product's name: each module meets one port with one product."""
