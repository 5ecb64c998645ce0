"""Which route a request needs: samples, features, training, serving and policy."""
