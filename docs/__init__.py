"""The documentation: pages in Markdown, and `docs.tools` that makes and checks them."""
