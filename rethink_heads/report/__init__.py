"""Result tables on the terminal, as JSON, CSV, Markdown and LaTeX, and their figures."""
