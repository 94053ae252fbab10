"""The datasets: a card and a module each; a plug-in like any outsider's."""
