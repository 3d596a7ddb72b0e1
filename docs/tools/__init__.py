"""Makes and checks the pages of docs/: `make docs-pages` writes outputs, generated pages and the notebook anew."""
