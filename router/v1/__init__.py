"""Generated from protos/router/v1 by `make protos`; do not edit."""
