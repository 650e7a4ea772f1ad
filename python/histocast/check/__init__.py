"""Judge every row of a samplesheet, the bundle and the panel before work begins."""
