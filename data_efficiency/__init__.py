"""Data-efficient training of transformers: curriculum sampling and random layerwise token dropping.

The three steps of a run, each usable alone:

    DataAnalyzer(dataset, ...).run_map_reduce()           how hard is each sample? -> DifficultyIndex
    engine, _, loader, _ = initialize(model=model, training_data=dataset, config="config.json")
    convert_to_random_ltd(engine, TransformerLayer)       chosen layers see a random part of the tokens

The names that a user meets are those of `__init__.pyi`; each is imported when it is first used, so that
a command or a worker process that needs no torch does not wait for it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
