"""Token corpora in Megatron's memory-mapped form: the library reads them, the trainer writes them too."""

from data_efficiency.files.indexed_dataset import IndexedDataset
from megatron.data.indexed_dataset_writer import IndexedDatasetWriter, dtype_for_vocabulary

__all__ = ["IndexedDataset", "IndexedDatasetWriter", "dtype_for_vocabulary"]
