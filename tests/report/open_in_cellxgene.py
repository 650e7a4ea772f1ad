"""Run in the environment of cellxgene: open a file by its own adaptor, as ``cellxgene launch`` does, and print what it serves."""

from __future__ import annotations

import json
import sys
import warnings


def main() -> None:
    warnings.simplefilter("ignore")
    from server.common.config.app_config import AppConfig
    from server.common.utils.data_locator import DataLocator
    from server.data_anndata.anndata_adaptor import AnndataAdaptor

    path = sys.argv[1]
    config = AppConfig()
    config.update_server_config(single_dataset__datapath=path, single_dataset__var_names="gene_symbol")
    config.complete_config()
    data = AnndataAdaptor(DataLocator(path), config)
    genes = list(data.query_var_array("gene_symbol"))
    facts = {
        "embeddings": data.get_embedding_names(),
        "places": data.get_embedding_array("spatial").tolist(),
        "genes": genes,
        "values": data.get_X_array()[:, genes.index("ERBB2")].tolist(),
        "columns": data.get_obs_keys(),
        "schema": data.get_schema(),
    }
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main()
