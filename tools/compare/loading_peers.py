"""Loaders over the same tokens, each with one face: FACTORIES[name](state, root) → batches, state of batch n.

A batch is a torch tensor int64 [8, 2048], whatever a loader makes by itself. `prepare` writes the tokens as each peer wants them,
from the flat file of u16. Settings are those of the peer's documentation for one process, shuffled.
"""
import glob
import os
import pathlib
import random

import numpy as np

SEQ_LEN, BATCH = 2048, 8


def flat(root):
    return np.memmap(root / "flat.u16", dtype=np.uint16, mode="r")


def samples(root, tokens=None):
    tokens = flat(root) if tokens is None else tokens
    count = len(tokens) // SEQ_LEN
    return tokens[: count * SEQ_LEN].reshape(count, SEQ_LEN)


def documents(root):
    lengths = np.load(root / "lengths.npy")
    return np.concatenate([[0], np.cumsum(lengths)])


def rows(root, state):
    order = np.random.default_rng(0).permutation(len(samples(root)))
    return order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)[state or 0 :]


def forebay_with(dataset, **options):
    def make(state, root):
        import forebay

        loader = forebay.Loader(root / dataset, seq_len=SEQ_LEN, batch_size=BATCH, output="torch", **options)
        if state:
            loader.load_state_dict(state)
        return (batch["input_ids"] for batch in loader), lambda n: loader.state_dict()

    return make


def forebay_dataloader(state, root):
    import forebay.torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    dataset = forebay.torch.IterableDataset(root / "corpus", seq_len=SEQ_LEN, batch_size=BATCH)
    loader = StatefulDataLoader(dataset, batch_size=None)
    if state:
        loader.load_state_dict(state)
    return (batch["input_ids"] for batch in loader), lambda n: loader.state_dict()


def numpy_floor(wide):
    def make(state, root):
        import torch

        stored = np.memmap(root / "u32/flat.u32", dtype=np.uint32, mode="r") if wide else flat(root)
        tokens = samples(root, stored).__array__()
        return (torch.from_numpy(tokens[row].astype(np.int64)) for row in rows(root, state)), lambda n: n

    return make


def memmap_dataset(root):
    import torch

    class Memmap(torch.utils.data.Dataset):
        def __init__(self):
            self.tokens = flat(root)

        def __len__(self):
            return len(self.tokens) // SEQ_LEN

        def __getitem__(self, at):
            return torch.from_numpy(self.tokens[at * SEQ_LEN : (at + 1) * SEQ_LEN].astype(np.int64))

    return Memmap()


def torch_memmap(state, root):
    import torch

    dataset = memmap_dataset(root)
    order = np.random.default_rng(0).permutation(len(dataset))[BATCH * (state or 0) :].tolist()
    return iter(torch.utils.data.DataLoader(dataset, batch_size=BATCH, sampler=order, drop_last=True)), lambda n: n


def stateful(state, root):
    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    seed = torch.Generator().manual_seed(0)
    loader = StatefulDataLoader(memmap_dataset(root), batch_size=BATCH, shuffle=True, generator=seed, drop_last=True)
    if state:
        loader.load_state_dict(state)
    return iter(loader), lambda n: loader.state_dict()


def mosaic(state, root):
    import streaming
    import torch

    streaming.base.util.clean_stale_shared_memory()

    class Tokens(streaming.StreamingDataset):
        def __getitem__(self, at):
            return torch.from_numpy(super().__getitem__(at)["tokens"].astype(np.int64))

    dataset = Tokens(local=str(root / "mds"), shuffle=True, shuffle_seed=1, batch_size=BATCH, num_canonical_nodes=1)
    loader = streaming.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, drop_last=True)
    if state:
        loader.load_state_dict(state)
    return iter(loader), lambda n: loader.state_dict()


def litdata(state, root):
    import torch
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    dataset = StreamingDataset(
        str(root / "litdata"), item_loader=TokensLoader(block_size=SEQ_LEN), shuffle=True, drop_last=True, seed=1,
        transform=lambda tokens: torch.from_numpy(np.asarray(tokens).astype(np.int64)),
    )
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)
    if state:
        loader.load_state_dict(state)
    return iter(loader), lambda n: loader.state_dict()


def grain_memmap(state, root):
    import grain
    import torch

    class Source:
        def __init__(self):
            self.tokens = samples(root)

        def __len__(self):
            return len(self.tokens)

        def __getitem__(self, at):
            return np.asarray(self.tokens[at])

    data = grain.MapDataset.source(Source()).shuffle(seed=1).map(lambda row: row.astype(np.int64))
    # Its threads make a fast source 5 to 9 times slower: none.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator = iter(data.to_iter_dataset(options).batch(BATCH, drop_remainder=True))
    if state:
        iterator.set_state(state)
    return (torch.from_numpy(batch) for batch in iterator), lambda n: iterator.get_state()


def hf_map(state, root):
    import datasets
    import torch

    data = datasets.load_from_disk(str(root / "hf")).with_format("numpy")
    collate = lambda rows: torch.from_numpy(np.stack([row["tokens"] for row in rows]).astype(np.int64))
    seed = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, shuffle=True, generator=seed, drop_last=True, collate_fn=collate
    )
    batches = iter(loader)
    for _ in range(state or 0):
        next(batches)
    return batches, lambda n: n


def webdataset(state, root):
    import torch
    import webdataset as wds

    decode = lambda sample: np.frombuffer(sample["bin"], np.uint16).astype(np.int64)
    data = wds.WebDataset(sorted(glob.glob(f"{root}/wds/*.tar")), shardshuffle=100, seed=1, empty_check=False)
    data = data.shuffle(1000, rng=random.Random(2)).map(decode)
    batches = iter(data.batched(BATCH, collation_fn=lambda rows: torch.from_numpy(np.stack(rows))))
    for _ in range(state or 0):
        next(batches)
    return batches, lambda n: n


ALL = ["labels", "position_ids", "cu_seqlens", "document_ids", "loss_mask"]
# Ours yield `input_ids` alone unless the name says more, as the peers do. `io="auto"` is the default.
FACTORIES = {
    "forebay, Parquet u32": forebay_with("corpus", prefetch=0),
    "forebay, Parquet u32, io=map": forebay_with("corpus", prefetch=0, io="map"),
    "forebay, Parquet u32, io=map, prefetch 2": forebay_with("corpus", prefetch=2, io="map"),
    "forebay, Parquet u32, io=map, five more columns": forebay_with("corpus", prefetch=0, io="map", columns=ALL),
    "forebay, Megatron u16": forebay_with("megatron/tokens", prefetch=0),
    "forebay, Megatron u16, io=map": forebay_with("megatron/tokens", prefetch=0, io="map"),
    "forebay, MDS u16, io=map": forebay_with("mds", prefetch=0, io="map"),
    "forebay.torch in StatefulDataLoader": forebay_dataloader,
    "numpy fancy index of memmap, u16 (floor)": numpy_floor(False),
    "numpy fancy index of memmap, u32 (floor)": numpy_floor(True),
    "torch DataLoader + memmap": torch_memmap,
    "torchdata StatefulDataLoader + memmap": stateful,
    "litdata TokensLoader": litdata,
    "grain, memmap source": grain_memmap,
    "MosaicML streaming, py1e": mosaic,
    "HF datasets, Arrow map-style": hf_map,
    "webdataset tar, buffer 1000": webdataset,
}
# A measurement of these takes long, and they are far behind: fewer rounds.
SLOW = ["litdata", "grain", "MosaicML", "HF", "webdataset"]
# Resuming is replaying: half a minute. Once.
REPLAYED = ["HF", "webdataset"]
# What is read into the page cache before a measurement; the flat file (linked in megatron/) by default.
FOLDERS = {
    "forebay, Megatron": "megatron", "forebay, MDS": "mds", "forebay": "corpus", "litdata": "litdata",
    "numpy fancy index of memmap, u32": "u32",
    "MosaicML": "mds", "HF": "hf", "webdataset": "wds",
}
# Imported before the clock starts.
MODULES = {
    "forebay": "forebay", "torchdata": "torchdata.stateful_dataloader", "litdata": "litdata", "grain": "grain",
    "MosaicML": "streaming", "HF": "datasets", "webdataset": "webdataset",
}


def write_megatron(root):
    """`tokens.bin` is the flat file itself."""
    folder = root / "megatron"
    folder.mkdir()
    os.link(root / "flat.u16", folder / "tokens.bin")
    bounds = documents(root)
    with open(folder / "tokens.idx", "wb") as index:
        index.write(b"MMIDIDX\x00\x00" + np.uint64(1).tobytes() + bytes([8]))
        index.write(np.uint64(len(bounds) - 1).tobytes() + np.uint64(len(bounds)).tobytes())
        index.write(np.diff(bounds).astype(np.int32).tobytes() + (2 * bounds[:-1]).astype(np.int64).tobytes())
        index.write(np.arange(len(bounds), dtype=np.int64).tobytes())


def write_u32(root):
    """As the tokens of our Parquet lie, without what is between them."""
    (root / "u32").mkdir()
    flat(root).astype(np.uint32).tofile(root / "u32/flat.u32")


def write_mds(root):
    from streaming import MDSWriter

    with MDSWriter(out=str(root / "mds"), columns={"tokens": f"ndarray:uint16:{SEQ_LEN}"}, size_limit=1 << 26) as writer:
        for row in samples(root):
            writer.write({"tokens": np.ascontiguousarray(row)})


def litdata_part(bounds_and_root):
    first, end, root = bounds_and_root
    root = pathlib.Path(root)
    tokens, bounds = flat(root), documents(root)
    for at in range(first, end):
        yield np.array(tokens[bounds[at] : bounds[at + 1]])


def write_litdata(root):
    from litdata import TokensLoader, optimize

    edges = np.linspace(0, len(documents(root)) - 1, 65).astype(int).tolist()
    parts = [(first, end, str(root)) for first, end in zip(edges, edges[1:])]
    loader = TokensLoader(block_size=SEQ_LEN)
    out = str(root / "litdata")
    optimize(litdata_part, parts, out, num_workers=1, chunk_size=SEQ_LEN * 16384, item_loader=loader, start_method="fork")


def write_hf(root):
    import datasets
    import pyarrow as pa

    tokens = pa.array(np.ascontiguousarray(samples(root)).reshape(-1))
    table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(tokens, SEQ_LEN)})
    datasets.Dataset(table).save_to_disk(str(root / "hf"))


def write_wds(root):
    import webdataset as wds

    (root / "wds").mkdir()
    with wds.ShardWriter(f"{root}/wds/part-%05d.tar", maxsize=1 << 26, maxcount=10**9, verbose=0) as writer:
        for at, row in enumerate(samples(root)):
            writer.write({"__key__": f"{at:08d}", "bin": row.tobytes()})


WRITERS = {"megatron": write_megatron, "u32": write_u32, "mds": write_mds, "litdata": write_litdata, "hf": write_hf, "wds": write_wds}
