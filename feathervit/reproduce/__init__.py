"""The papers' tables, row by row: what they report, how each row is run here, and the tables with both side by side."""
