"""Studies: a base recipe, arms, seeds, run cell by cell into one table and one chart. `feathervit.studies` defines them."""
