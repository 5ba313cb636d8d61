"Properties from a user's table: what is refused, what is learnt and what is not, Fmax by hand from file to number, fine-tuning that leaves no trace; and the measures of perplexity and mutations"
import copy
import gzip

import numpy as np
import pytest
import torch

from sa_toolkit.core import example_chains
from sa_toolkit.labels import PropertyTable, read_properties
from sa_toolkit.mutations import gb1_scan, mutation_effects, mutation_measures, mutation_score
from sa_toolkit.perplexity import masked_perplexity, perplexity_measures, pseudo_perplexity
from sa_toolkit.plm import load_plm
from sa_toolkit.properties import PropertyModel, fit_property, pool_states, property_measures
from sa_toolkit.results import Results, estimate, open_results, save_results, spearman

AA = 'ACDEFGHIKLMNPQRSTVWY'

@pytest.fixture(scope='module')
def tiny(): return load_plm('tiny', pretrained=False)

@pytest.fixture(scope='module')
def made():
    rng = np.random.default_rng(0)
    return [''.join(rng.choice([*AA], rng.integers(20, 40), p=rng.dirichlet(np.ones(20)))) for _ in range(240)]

@pytest.fixture(scope='module')
def pooled(tiny, made): return pool_states(tiny, made)

PART = np.repeat(['train', 'valid', 'test'], (140, 40, 60))

def greasy(made): return np.array([sum(a in 'AILMFVWY' for a in s)/len(s) for s in made])

def table(made, kind, y=None):
    x = greasy(made)
    if kind == 'regression': return PropertyTable('made', made, x if y is None else y, kind, PART)
    if kind == 'classification': return PropertyTable('made', made, np.digitize(x, [.25, .5]) if y is None else y, kind, PART, ('low', 'middle', 'high'))
    flags = np.array([[s.count(a) >= 3 for a in 'GPW'] for s in made])
    return PropertyTable('made', made, flags if y is None else y, kind, PART, tuple('GPW'))

# reading

def write(path, text):
    (gzip.open if path.suffix == '.gz' else open)(path, 'wt', encoding='utf-8').write(text)
    return path

HEAD = 'sequence,label,split\n'
GOOD = HEAD + 'MKT,1.5,train\nMKV,2.5,train\nMAA,0.5,valid\nMAC,1.0,test\n'

@pytest.mark.parametrize('text, said', [
    (GOOD.replace('MKV', ''), 'own.csv, line 3: its sequence is empty. Leave letters only, or leave the row out'),
    (GOOD.replace('MKV', 'MK*').replace('MAA', 'M-A'), r"line 3: its sequence has '\*' at position 3, and 1 more rows"),
    (GOOD.replace('2.5', 'nan'), "own.csv, line 3: its label 'nan' is no finite number"),
    (GOOD.replace('2.5', ''), "line 3: its label '' is no finite number"),
    (GOOD.replace('2.5', 'inf'), "line 3: its label 'inf'"),
    (GOOD.replace('2.5', '2.5 kcal'), "line 3: its label '2.5 kcal' is no finite number"),
    (GOOD.replace('2.5', '1.5'), 'own.csv: all rows of train have the same label'),
    (GOOD.replace('2.5', 'NaN').replace('1.5', 'a').replace('0.5', 'b').replace('1.0', 'b'), "line 3: its label 'NaN' is no label"),
    (GOOD.replace('MAC', 'MKT'), r'own.csv: line 2 \(train\) and line 5 \(test\) have the same sequence, MKT'),
    (GOOD.replace('MAC', 'mk t'), r'line 2 \(train\) and line 5 \(test\) have the same sequence'),
    (GOOD.replace('test', 'train'), 'none for test'),
    (GOOD.replace('valid', 'holdout'), "own.csv, line 4: its part is 'holdout'; there are train, valid and test"),
    (GOOD.replace('label', 'y'), "own.csv has no column 'label'; it has 'sequence', 'y', 'split'"),
    (GOOD.replace('2.5', '2,5'), 'own.csv, line 3 has more cells than the header'),
    (GOOD.replace(',2.5', ''), 'own.csv, line 3 has fewer cells'),
    (HEAD, 'a header and no rows'),
    ('', "no column 'sequence'; it has none")])
def test_a_table_that_does_not_fit(tmp_path, text, said):
    with pytest.raises(ValueError, match=said): read_properties(write(tmp_path/'own.csv', text))

def test_what_is_no_text_and_what_is_no_kind(tmp_path):
    for name in ('own.csv', 'own.csv.gz'):
        (tmp_path/name).write_bytes(b'\xff\xfe\x00sequence')
        with pytest.raises(ValueError, match=f'{name} is no table in text form'): read_properties(tmp_path/name)
    path = write(tmp_path/'own.csv', GOOD)
    with pytest.raises(ValueError, match="kind is 'numbers'"): read_properties(path, kind='numbers')
    with pytest.raises(ValueError, match="no column 'fold'"): read_properties(path, split='fold')
    many = HEAD + ''.join(f'{"M"*(k+1)},word {k},train\n' for k in range(30))
    with pytest.raises(ValueError, match='30 different labels in 30 rows are too many'): read_properties(write(path, many))
    with pytest.raises(FileNotFoundError): read_properties(tmp_path/'absent.csv')

def test_what_is_inferred_is_said_and_can_be_overruled(tmp_path):
    path = write(tmp_path/'own.tsv.gz', GOOD.replace('.5', '').replace('.0', '').replace(',', '\t').replace('valid', 'val'))
    inferred, told = read_properties(path), read_properties(path, kind='regression')
    assert inferred.kind == 'classification' and inferred.classes == ('0', '1', '2') and inferred.y.tolist() == [1, 2, 0, 1] and 'whole numbers of 3 values' in str(inferred)
    assert told.y.tolist() == [1, 2, 0, 1] and told.kind == 'regression' and not told.notes and told.part.tolist() == ['train', 'train', 'valid', 'test']

def test_labels_as_columns_of_zeros_and_ones(tmp_path):
    text = 'sequence;a;b;split\nMKT;1;0;train\nMKV;0;True;train\nMAA;0;0;valid\nMAC;1.0;1;test\n'
    t = read_properties(write(tmp_path/'own.csv', text), label=['a', 'b'])
    assert t.kind == 'multi-label' and t.classes == ('a', 'b') and t.y.tolist() == [[True, False], [False, True], [False, False], [True, True]]
    with pytest.raises(ValueError, match="line 3: column 'b' holds '2'"): read_properties(write(tmp_path/'own.csv', text.replace('True', '2')), label=['a', 'b'])

def test_drawn_parts_follow_the_seed_and_keep_a_sequence_together(tmp_path, made):
    rows = [f'{s},{k%7}.5' for k, s in enumerate([*made, *made[:40]])]
    path = write(tmp_path/'own.csv', '\n'.join(['sequence,label', *rows]))
    with pytest.warns(UserWarning, match='relatives of test proteins may be in train'): t = read_properties(path)
    write(path, '\n'.join(['sequence,label', *rows[::-1]]))
    with pytest.warns(UserWarning): turned, other = read_properties(path), read_properties(path, seed=1)
    assert t.part.tolist() == turned.part[::-1].tolist() != other.part[::-1].tolist() and len(set(t.ids)) == 240 and t.ids[240] == 'line 2'
    only = write(path, HEAD + ''.join(f'{r},{"test" if k < 50 else "train"}\n' for k, r in enumerate(rows[:240])))
    t = read_properties(only)
    assert [len(t.at(p)) for p in ('train', 'valid', 'test')] == [166, 24, 50] and 'no row is for valid' in str(t)

# learning

@pytest.mark.parametrize('kind, floor, noise', [('regression', .9, .35), ('classification', .8, .65), ('multi-label', .8, .75)])
def test_a_planted_signal_is_found_and_shuffled_labels_are_not(tiny, made, pooled, kind, floor, noise):
    t = table(made, kind)
    got = property_measures(tiny, t, pooled=pooled)
    assert got[0].value() > floor and got[0].n == 60
    chance = []
    for seed in range(2):
        y = t.y.copy()
        y[:180] = y[np.random.default_rng(seed).permutation(180)]
        chance.append(property_measures(tiny, table(made, kind, y), pooled=pooled)[0].value())
    assert np.mean(chance) < min(noise, got[0].value()-.15), chance

def test_squared_error_is_in_the_labels_unit_and_nothing_depends_on_it(tiny, made, pooled):
    a, b = (property_measures(tiny, table(made, 'regression', k*greasy(made)+7), pooled=pooled) for k in (1., 100.))
    assert [m.name for m in a] == ['made Spearman', 'made squared error'] and a[1].better == 'lower'
    assert b[1].value() == pytest.approx(1e4*a[1].value(), rel=.02) and a[0].value() == pytest.approx(b[0].value(), abs=.01)
    assert a[1].value() < np.var(greasy(made)[180:])/2

def test_ready_states_the_same_numbers_and_the_same_again(tiny, made, pooled):
    t = table(made, 'classification')
    a, b, c = property_measures(tiny, t), property_measures(tiny, t, pooled=pooled), property_measures(tiny, t, pooled=np.stack([h.mean(0) for h in tiny.embed(made)]))
    assert np.array_equal(a[0].rows, b[0].rows) and np.array_equal(a[0].rows, c[0].rows)
    first, again = fit_property(tiny, t, pooled=pooled), fit_property(tiny, t, pooled=pooled)
    assert first.log == again.log and torch.equal(first.weight, again.weight)
    with pytest.raises(ValueError, match=r'pooled states are \(239, 32\), but made has 240 rows'): property_measures(tiny, t, pooled=pooled[1:])
    with pytest.raises(ValueError, match='lr is for fine-tuning'): property_measures(tiny, t, lr=1.)

def test_the_test_part_is_not_read_when_fitting(tiny, made, pooled):
    t, x, y = table(made, 'regression'), pooled.copy(), greasy(made)
    x[180:], y[180:] = np.nan, 0
    assert torch.equal(fit_property(tiny, t, pooled=pooled).weight, fit_property(tiny, table(made, 'regression', y), pooled=x).weight)

def test_validation_chooses_the_strength(tiny, made, pooled):
    m = fit_property(tiny, table(made, 'regression'), pooled=pooled)
    assert len(m.log) == 6 and len({v for _, v in m.log}) == 6
    z = m.outputs(torch.from_numpy(pooled[140:180]))[:,0] - m.targets(greasy(made)[140:180])
    assert z.square().mean().item() == pytest.approx(min(v for _, v in m.log), rel=1e-4)

def test_fmax_by_hand_from_file_to_number(tmp_path, tiny):
    path = write(tmp_path/'hand.csv', HEAD + 'MKT,one,train\nMKV,two;three,train\nMAA,one,valid\nMAC,one; two,test\nMAD,three,test\nMAE,,test\n')
    t = read_properties(path, label='label')
    assert t.classes == ('one', 'three', 'two') and t.y[t.at('test')].tolist() == [[True, False, True], [False, True, False], [False]*3]
    score = np.array([[.9, .1, .8], [.2, .6, .7], [.5, .5, .5]]) # of one, three, two
    m = PropertyModel(tiny, 'multi-label', t.classes, (torch.zeros(3), torch.ones(3)), (0., 1.), torch.eye(3), torch.zeros(3))
    x = np.zeros((6, 3), np.float32)
    x[3:] = np.log(score/(1-score))
    assert np.allclose(m.predict(pooled=x[3:]), score, atol=1e-6)
    got, = m.measures(t, x)
    assert (got.name, got.stat) == ('hand Fmax', 'fmax') and got.value() == pytest.approx(6/7)
    saved = open_results(save_results(Results({'model': [[got]]}), tmp_path/'r.parquet'))
    assert saved.table()[0]['value'] == pytest.approx(6/7)

def test_rows_of_one_sequence_are_one_protein(tiny, made, pooled):
    again = [*made, *made[180:]]
    t = PropertyTable('made', again, np.tile(greasy(made), 2)[[*range(240), *range(180, 240)]], 'regression', [*PART, *['test']*60])
    m = property_measures(tiny, t, pooled=pooled[[*range(240), *range(180, 240)]])[0]
    one = property_measures(tiny, table(made, 'regression'), pooled=pooled)[0]
    assert m.n == 60 and len(m.ids) == 120 and estimate([m]) == pytest.approx(estimate([one]), abs=1e-9)

def test_a_model_without_numbers_is_refused(tiny, made):
    plm = copy.deepcopy(tiny)
    with torch.no_grad(): plm.model.esm.encoder.layer[0].output.dense.weight.fill_(float('nan'))
    with pytest.raises(ValueError, match='gives no number for sequence 1: check its weights'): property_measures(plm, table(made, 'regression'))
    with pytest.raises(ValueError, match='gives no number for a masked residue of sequence 1'): perplexity_measures(plm, made[:2], each=3)
    with pytest.raises(ValueError, match='gives no number for T2A of GB1'): mutation_measures(plm)

# fine-tuning

@pytest.fixture(scope='module')
def few(made): return PropertyTable('few', made[:60], greasy(made[:60]), 'regression', np.repeat(['train', 'valid', 'test'], (36, 12, 12)))

def whole(plm): return {k: v.clone() for k, v in plm.state_dict().items()}

def same(a, b): return all(torch.equal(v, b[k]) for k, v in a.items())

def test_fine_tuning_leaves_the_given_model_as_it_was_and_is_the_same_each_time(tiny, few):
    plm = copy.deepcopy(tiny).train()
    before, rng, flags = whole(plm), torch.get_rng_state(), [p.requires_grad for p in plm.parameters()]
    a, b = (fit_property(plm, few, frozen=False, lr=1e-5, epochs=2, progress=False) for _ in range(2))
    assert same(before, plm.state_dict()) and plm.training and all(p.grad is None for p in plm.parameters()) and torch.equal(rng, torch.get_rng_state())
    assert flags == [p.requires_grad for p in plm.parameters()]
    assert a.log == b.log and [k for k, _ in a.log[6:]] == ['epoch 1', 'epoch 2'] and torch.equal(a.weight, b.weight)

def test_what_is_kept_is_the_best_epoch(tiny, few, monkeypatch):
    head = fit_property(tiny, few)
    losses = iter([.03, .01, .02, .04, .05, .06, .07])
    seen = []
    def told(m, table, budget):
        seen.append((whole(m.plm), m.weight.detach().clone()))
        return next(losses)
    monkeypatch.setattr('sa_toolkit.properties._valid_loss', told)
    head.log = [('penalty 1', .02)]
    head.tune(few, lr=1e-4, epochs=9, patience=3, progress=False)
    assert [k for k, _ in head.log[1:]] == [f'epoch {k}' for k in (1, 2, 3, 4, 5)] # three without a lower one after the second
    assert same(seen[1][0], head.plm.state_dict()) and torch.equal(seen[1][1], head.weight) and not same(seen[0][0], seen[1][0])
    assert [m.name for m in head.measures(few)] == ['few (fine-tuned) Spearman', 'few (fine-tuned) squared error']

def test_no_better_epoch_no_change(tiny, few, monkeypatch):
    head = fit_property(tiny, few)
    weight = head.weight.clone()
    monkeypatch.setattr('sa_toolkit.properties._valid_loss', lambda *_: 99.)
    head.tune(few, lr=1e-4, epochs=9, patience=2, progress=False)
    assert head.plm is tiny and torch.equal(head.weight, weight) and len(head.log) == 8

def test_interrupted_keeps_what_was_learnt_and_leaves_the_model_alone(tiny, few, monkeypatch):
    head, before = fit_property(tiny, few), whole(tiny)
    losses = iter([-1.])
    def told(*_):
        if (x := next(losses, None)) is None: raise KeyboardInterrupt
        return x
    monkeypatch.setattr('sa_toolkit.properties._valid_loss', told)
    with pytest.raises(KeyboardInterrupt): head.tune(few, lr=1e-4, progress=False)
    assert head.tuned and head.plm is not tiny and head.log[-1] == ('epoch 1', -1.) and same(before, tiny.state_dict())
    assert np.isfinite(head.predict(few.sequences[:2])).all() and not any(p.requires_grad for p in head.plm.parameters())

def test_a_rate_that_breaks_the_model_says_so(tiny, few):
    with pytest.raises(ValueError, match='The loss is (nan|inf): lower lr'): fit_property(tiny, few, frozen=False, lr=1e30, epochs=3, progress=False)

# perplexity and mutations

def test_pseudo_perplexity_masks_each_residue_alone_whatever_the_batches(tiny):
    seqs = ['MKTAYIAKQR', 'GSHX', 'XX']
    p, rows = pseudo_perplexity(tiny, seqs)
    assert rows[:,1].tolist() == [10, 3, 0] and p == pytest.approx(np.exp(rows[:,0].sum()/13))
    for budget in (1, 25): assert np.allclose(pseudo_perplexity(tiny, seqs, budget=budget)[1], rows, rtol=1e-5)
    ids, want = tiny.tokenize(seqs[:1]), 0.
    for k in range(10):
        masked = ids.clone()
        masked[0,k+1] = tiny.vocab.id('<mask>')
        with torch.no_grad(): want -= tiny.model(input_ids=masked).logits[0,k+1].log_softmax(-1)[ids[0,k+1]].item()
    assert rows[0,0] == pytest.approx(want, rel=1e-5)
    assert np.isnan(pseudo_perplexity(tiny, ['XX'])[0]) and pseudo_perplexity(tiny, [])[1].shape == (0, 2)

def test_measures_of_perplexity_pair_with_another_model(tiny):
    chains, other = example_chains('valid')[:8], load_plm('tiny', pretrained=False, seed=1)
    a, b = (perplexity_measures(p, chains, each=3) for p in (tiny, other))
    assert a[0].value() == pytest.approx(masked_perplexity(tiny, [c.sequence for c in chains])[0])
    assert a[1].rows[:,1].tolist() == b[1].rows[:,1].tolist() == [3.]*8 and a[0].n == 8
    assert estimate(a[1:], b[1:])[0] == pytest.approx(a[1].value()-b[1].value())

def test_mutations_are_the_correlation_and_resampled_by_position(tiny):
    scan = gb1_scan()
    masked, plain = mutation_measures(tiny)
    assert [masked.name, plain.name] == ['GB1 stability (masked)', 'GB1 stability (wild-type)'] and masked.n == len(set(scan.places)) == 54
    assert masked.value() == pytest.approx(spearman(mutation_effects(tiny, scan), scan.effect)) == mutation_score(tiny, n=9)[0]
    assert plain.value() == pytest.approx(spearman(mutation_effects(tiny, scan, 'wild-type'), scan.effect))
