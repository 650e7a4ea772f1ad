"""Questions across slides: slide summaries gathered into tables of slides and genes, without opening any AnnData file."""
