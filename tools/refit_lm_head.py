"""Refit the language-model head that the wheel carrier of `sa_toolkit.hub` lacks.

    python tools/refit_lm_head.py sequences.fasta[.gz] [--sequences 9000] [--threads 1]

The encoder stays frozen; dense, LayerNorm and bias are learnt by masked-language modelling (15 %, always <mask>),
the decoder stays tied to the encoder's own embeddings. Each sequence is encoded once, and the head then trained on the stored states. The first 5 % of the shuffled sequences are held out for the perplexity printed at the end.
The bundled head was made from a 50 %-identity sample of Swiss-Prot (UniProt, CC-BY 4.0).
"""
import argparse
import gzip
import random
import time

import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import EsmConfig, EsmForMaskedLM

from sa_toolkit.core import asset
from sa_toolkit.esm2 import ESM
from sa_toolkit.hub import ESM2_8M, _fetch_carrier, carrier_state
from sa_toolkit.language import tokenize

LR = 2e-3
pad, mask = ESM.id('<pad>'), ESM.id('<mask>')

def read_fasta(path):
    "Sequences of a FASTA file, gzipped or not"
    with (gzip.open if path.endswith('.gz') else open)(path, 'rt') as f: records = f.read().split('>')[1:]
    return [''.join(r.split('\n')[1:]) for r in records]

def batches(seqs, budget=6000, crop=510):
    "Sequences of like length, at most `budget` positions together, in random order"
    seqs, out, cur = sorted((s[:crop] for s in seqs), key=len), [], []
    for s in seqs:
        if cur and (len(cur)+1)*(len(s)+2) > budget: out, cur = [*out, cur], []
        cur.append(s)
    random.shuffle(out := out+[cur])
    return out

@torch.no_grad()
def masked_states(model, seqs, gen):
    "Last hidden states of masked residues (half precision, to fit in memory) and what stood there"
    out = []
    for b in tqdm(batches(seqs), desc='states', mininterval=5):
        ids = tokenize(b, ESM)
        hit = (torch.rand(ids.shape, generator=gen) < .15) & (ids > 3) & (ids != mask)
        h = model.esm(ids.masked_fill(hit, mask), attention_mask=(ids != pad).long()).last_hidden_state
        out.append((h[hit].half(), ids[hit]))
    return [torch.cat(x) for x in zip(*out)]

def fit(head, h, y, epochs=12, size=2048):
    "Train the head on stored states"
    params = [p for n, p in head.named_parameters() if 'decoder' not in n]
    steps = epochs*(len(h)//size)
    opt = torch.optim.AdamW(params, lr=LR, weight_decay=.01)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, LR, total_steps=steps, pct_start=.05)
    for k in (bar := tqdm(range(steps), desc='head', mininterval=5)):
        if k % (len(h)//size) == 0: order = torch.randperm(len(h))
        rows = order[(k % (len(h)//size))*size:][:size]
        loss = torch.nn.functional.cross_entropy(head(h[rows].float()), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        if k % 50 == 0: bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('fasta')
    p.add_argument('--sequences', type=int, default=9000)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    random.seed(0)
    seqs, start, gen = read_fasta(a.fasta), time.time(), torch.Generator().manual_seed(0)
    random.shuffle(seqs)
    held, train = seqs[:a.sequences//20], seqs[a.sequences//20:a.sequences]
    model = EsmForMaskedLM(EsmConfig(**ESM2_8M)).eval()
    missing, extra = model.load_state_dict(carrier_state(_fetch_carrier()), strict=False)
    assert not extra and all(k.startswith('lm_head') or 'position' in k for k in missing), (missing, extra)
    h_held, y_held = masked_states(model, held, gen)
    fit(model.lm_head, *masked_states(model, train, gen))
    with torch.no_grad(): ppl = torch.nn.functional.cross_entropy(model.lm_head(h_held.float()), y_held).exp().item()
    freq = torch.bincount(y_held)/len(y_held)
    unigram = torch.exp(-(freq*freq.clamp(min=1e-9).log()).sum()).item()
    save_file({f'lm_head.{k}': v.detach().contiguous() for k, v in model.lm_head.state_dict().items() if 'decoder' not in k}, asset('lm_head.safetensors'),
        metadata=dict(made_by='tools/refit_lm_head.py', sequences=str(len(train)), heldout_perplexity=f'{ppl:.3f}'))
    print(f'{len(train)} sequences, {time.time()-start:.0f} s; perplexity on {len(held)} held-out sequences {ppl:.2f}, unigram {unigram:.2f} (random split, not clustered by identity)')

if __name__ == '__main__': main()
