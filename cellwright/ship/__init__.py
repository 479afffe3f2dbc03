"""8. Shipping: a trained model leaves the workshop."""
