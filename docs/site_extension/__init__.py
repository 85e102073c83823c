"""What the documentation site has beyond its theme: made-up results, commands that are run, links, drawings."""
