"""Making labelled conversations: the written corpus and what is built from it, and the pipeline against a model."""
