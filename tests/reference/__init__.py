"""The papers' formulas written literally and slowly: oracles that share no code with the package."""
