"""A small GPT on the CPU, in the manner of nanoGPT: killed at any step, resumed on any number of ranks, the same loss.

    python train.py CORPUS --run RUN --ranks 2 --steps 60       # kill it whenever you like
    python train.py CORPUS --run RUN --ranks 3 --steps 60       # goes on at its last checkpoint

`forebay.Loader` gives every rank its slots of a global batch that is the same for any number of ranks. For a loss that
is the same to the last bit, gradients are taken a row at a time and summed in the order of the slots: floating-point sums
depend on their order, whoever computes them. A real job would all-reduce and live with the last digits.
"""

import argparse
import json
import os
import pathlib

import torch
import torch.distributed as dist
import torch.nn.functional as F

import forebay

GLOBAL_BATCH, SEQ_LEN, VOCAB, WIDTH, HEADS, LAYERS = 12, 64, 50_257, 32, 4, 2
CHECKPOINT_EVERY = 5


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, mask):
        rows, length, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCAB, WIDTH)
        self.places = torch.nn.Embedding(SEQ_LEN, WIDTH)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = torch.nn.LayerNorm(WIDTH)
        torch.nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, batch):
        documents = batch["document_ids"]
        # Causal, and no look across the border of a document.
        same = documents[:, :, None] == documents[:, None, :]
        mask = (same & torch.ones(SEQ_LEN, SEQ_LEN, dtype=torch.bool).tril())[:, None]
        x = self.tokens(batch["input_ids"]) + self.places(batch["position_ids"])
        for block in self.blocks:
            x = block(x, mask)
        logits = F.linear(self.norm(x), self.tokens.weight)
        losses = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="none")
        return (losses * batch["loss_mask"].flatten()).sum() / (GLOBAL_BATCH * SEQ_LEN)


def flat_gradient(model, batch, row):
    """Loss and gradient of one row, as one vector."""
    model.zero_grad()
    one = {name: value[row : row + 1] for name, value in batch.items() if torch.is_tensor(value) and value.dim() == 2}
    loss = model(one)
    loss.backward()
    return torch.cat([loss.detach().view(1), *(p.grad.flatten() for p in model.parameters())])


def train(rank, args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=args.ranks)
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = forebay.Loader(
        args.corpus, seq_len=SEQ_LEN, batch_size=GLOBAL_BATCH // args.ranks, rank=rank, world_size=args.ranks,
        samples="best-fit", columns=["labels", "position_ids", "document_ids", "loss_mask"], output="torch",
    )
    checkpoint = args.run / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    while loader.step < args.steps:
        batch = loader.next()
        mine = torch.stack([flat_gradient(model, batch, row) for row in range(GLOBAL_BATCH // args.ranks)])
        parts = [torch.empty_like(mine) for _ in range(args.ranks)]
        dist.all_gather(parts, mine)
        # Row i of rank r is slot r + i · ranks.
        total = torch.zeros_like(mine[0])
        for slot in torch.stack(parts, dim=1).flatten(0, 1):
            total += slot
        at = 1
        for parameter in model.parameters():
            parameter.grad = total[at : at + parameter.numel()].view_as(parameter).clone()
            at += parameter.numel()
        optimizer.step()
        if rank == 0:
            with open(args.run / "loss.jsonl", "a") as log:
                entry = {"step": batch["step"], "loss": total[0].item(), "ranks": args.ranks}
                log.write(json.dumps(entry) + "\n")
            if loader.step % CHECKPOINT_EVERY == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
                torch.save(state, checkpoint.with_suffix(".part"))
                os.replace(checkpoint.with_suffix(".part"), checkpoint)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="checkpoint and losses go here")
    parser.add_argument("--ranks", type=int, default=2, help=f"a divisor of {GLOBAL_BATCH}")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--port", type=int, default=29_511)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(train, (args,), nprocs=args.ranks)


if __name__ == "__main__":
    main()
