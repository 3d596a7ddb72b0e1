"""What mkdocs runs while it builds: the notebook becomes a page."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.tools import notebook


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add notebooks/demo.md, made of the notebook and its stored outputs."""
    files.append(File.generated(config, "notebooks/demo.md", content=notebook.as_markdown(notebook.read())))
    return files
