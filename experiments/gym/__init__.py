"""Units, classifiers and data sets whose right interpretation is known, with frozen seeds: what the system is measured on."""
