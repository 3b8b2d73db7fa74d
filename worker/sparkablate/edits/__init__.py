"""What a spec does to a tensor that passes its tap, and the hooks that do it."""
