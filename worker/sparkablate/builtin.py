"""``python -m sparkablate.builtin``: makes the built-in models."""

from .loading.builtin import main

if __name__ == "__main__":
    main()
