"""The training example as written and read back: vocabulary, streams, interleaving, webdataset tars, the loader."""
