"""Studies: arms x paired seeds of any model, planned and registered before they run, counted by receipts."""
