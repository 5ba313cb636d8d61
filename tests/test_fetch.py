"""Downloads against a local server that misbehaves, and what is read by id, folder and list."""
import _thread
import gzip
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import sa_toolkit.fetch as module
from sa_toolkit.core import asset, example_chain, example_chains
from sa_toolkit.entries import _FORMATS
from sa_toolkit.fetch import Patience, cached, fetch, fetch_all, parse_id
from sa_toolkit.structure import _FILE, inputs, read_chain, read_chains, read_one

DATA = Path(__file__).parent/'data'/'structures'
GOOD = (DATA/'1gbt.bcif.gz').read_bytes()
OTHER = (DATA/'3jqh.bcif.gz').read_bytes()
USUAL = Patience(tries=3, pause=.005, longest=.4)
QUICK = replace(USUAL, timeout=1) # where a server says nothing; a busy machine may still need a while to say something


# ---- a server that does as it is told

def send(data=GOOD, code=200, keep=None, length=None, tag='"1"', date='', ranges=True, strict=True, then=None, **headers):
    "An answer: `data`, of which only `keep` bytes are sent, under a `length` that may be a lie; `strict` servers heed If-Range"
    def answer(h):
        asked, same = h.headers.get('Range'), h.headers.get('If-Range') in (tag, date) or not strict
        start = int(asked[6:-1]) if asked and ranges and same and code == 200 else 0
        if start >= len(data) > 0: return h.send_error(416)
        h.send_response(206 if start else code)
        if start: h.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
        if length != '': h.send_header('Content-Length', str(len(data) - start if length is None else length))
        for k, v in dict(ETag=tag, Last_Modified=date, **headers).items():
            if v: h.send_header(k.replace('_', '-'), v)
        h.end_headers()
        h.wfile.write(data[start:][:keep])
        if then: then(h)
    return answer


def stall(h): h.wfile.flush() or h.server.stop.wait(60)


def drip(h, data=b'\x1f'*400): # a byte now and then, sooner than any read times out
    for k in range(len(data)):
        if h.server.stop.wait(.05): return
        h.wfile.write(data[k:k+1])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        s, name = self.server, self.path.rsplit('/', 1)[-1].split('.')[0].lower()
        with s.lock:
            s.now += 1
            s.log.append((time.monotonic(), name, self.headers.get('Range', '')))
            play = s.plays.get(name, s.plays.get('*', [lambda h: h.send_error(404)]))
            answer = play.pop(0) if len(play) > 1 else play[0]
        try: answer(self)
        except (BrokenPipeError, ConnectionResetError): pass
        finally:
            with s.lock: s.now -= 1

    def log_message(self, *args): pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    s = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.plays, s.log, s.now, s.lock, s.stop = {}, [], 0, threading.Lock(), threading.Event()
    threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
    s.url = f'http://127.0.0.1:{s.server_port}'
    for k, v in dict(SA_TOOLKIT_RCSB=s.url, SA_TOOLKIT_CACHE=str(tmp_path/'cache'), no_proxy='127.0.0.1', SA_TOOLKIT_OFFLINE='', HF_HUB_OFFLINE='').items(): monkeypatch.setenv(k, v)
    monkeypatch.setattr(module, '_AFDB', f'{s.url}/api')
    monkeypatch.setattr(module, 'PATIENCE', USUAL)
    monkeypatch.setattr(module, '_quiet', {})
    yield s
    s.stop.set()
    s.shutdown()
    s.server_close()


def stored(tmp_path): return sorted(p.name for p in (tmp_path/'cache').rglob('*') if p.is_file())


# ---- ids

@pytest.mark.parametrize('text, entry, chain', [
    ('4HHB', '4HHB', None), ('4hhb', '4HHB', None), (' 4hhb ', '4HHB', None), ('4HHB.A', '4HHB', 'A'), ('4hhb_a', '4HHB', 'a'), ('4HHB:AA-2', '4HHB', 'AA-2'), ('4hhb.1', '4HHB', '1'),
    ('pdb_00004hhb', '4HHB', None), ('PDB_00004HHB_A', '4HHB', 'A'), ('pdb_10021ABC.B', 'pdb_10021abc', 'B'), ('pdb_0000abcd', 'pdb_0000abcd', None),
    ('AF-P69905-F1', 'AF-P69905-F1', None), ('af-p69905-f1.A', 'AF-P69905-F1', 'A'), ('AF-A0A024R1R8-F12_A', 'AF-A0A024R1R8-F12', 'A'), ('AF-P69905-2-F1', 'AF-P69905-2-F1', None),
    ('AF-P69905-F1-model_v6', 'AF-P69905-F1-model_v6', None), ('AF-P69905-F1-v4', 'AF-P69905-F1-model_v4', None)])
def test_ids(text, entry, chain):
    assert parse_id(text) == (entry, chain) and parse_id(str(parse_id(text))) == (entry, chain)


@pytest.mark.parametrize('text', ['', '4HH', '4HHBA', 'HHHB', '4HHB.', '4HHB..A', '4HHB A', 'pdb_4hhb', '4hhb.cif', '4hhb.BCIF', '4hhb.pdb', '4hhb.cif.gz', '4hhb.gz', 'AF-P69905', 'AF-P6-F1',
                                  'AF-P69905-F1.cif', 'P69905', 'data/4HHB', '../4hhb', '4hhb\n5abc'])
def test_no_ids(text, tmp_path, monkeypatch):
    monkeypatch.setenv('SA_TOOLKIT_CACHE', str(tmp_path))
    assert parse_id(text) is None
    with pytest.raises(ValueError, match='is no id'): fetch(text)


@pytest.mark.parametrize('name, chain', [('1GBT', None), ('1gbt', None), ('1GBT.A', None), ('1GBT_A', None), ('1GBT:A', None), ('1GBT', 'A'), ('pdb_00001gbt_A', None)])
def test_an_entry_is_downloaded_once(server, name, chain):
    server.plays['1gbt'] = [send()]
    first, again, file = read_chain(name, chain), read_chain(name, chain), read_chain(DATA/'1gbt.bcif.gz')
    assert len(server.log) == 1 and first.id == again.id == '1GBT_A' and first.notes == file.notes and first.source == '1gbt.bcif.gz'
    assert np.array_equal(first.coords, file.coords, equal_nan=True) and [c.id for c in read_chains(name)] == ['1GBT_A']


def test_extended_ids_are_asked_for_as_they_are(server, tmp_path):
    server.plays['pdb_10021abc'] = [send()]
    assert fetch('pdb_10021ABC').name == 'pdb_10021abc.bcif.gz' and read_chain('PDB_10021abc.A').id == '1GBT_A' and len(server.log) == 1


# ---- what a server may do

def test_silence_before_headers(server, tmp_path):
    server.plays['1gbt'] = [stall, send()]
    assert fetch('1GBT', patience=QUICK).read_bytes() == GOOD
    server.plays['9abc'] = [stall]
    with pytest.raises(ConnectionError, match=r'^9ABC could not be fetched from 127.* \(timed out; tried 2 times\): check the network, or give a file instead\.$'): fetch('9ABC', patience=replace(QUICK, tries=2))
    assert [n for _, n, _ in server.log].count('9abc') == 2 and stored(tmp_path) == ['1gbt.bcif.gz']


def test_silence_in_the_middle_is_continued(server):
    server.plays['1gbt'] = [send(keep=9000, then=stall), send()]
    assert fetch('1GBT', patience=QUICK).read_bytes() == GOOD and [r for *_, r in server.log][:2] == ['', 'bytes=9000-']


@pytest.mark.parametrize('answer', [drip, lambda h: drip(h, b'HTTP/1.0 200 OK\r\n' + b'X: y\r\n'*99), send(length=4000, keep=10, then=drip), send(length='', keep=0, then=drip)],
                         ids=['status', 'headers', 'body', 'endless body'])
def test_dripping_is_given_up(server, tmp_path, answer):
    server.plays['1gbt'], began = [answer], time.monotonic()
    with pytest.raises(ConnectionError, match='^1GBT could not be fetched.*not finished after 0.2 s'): fetch('1GBT', patience=Patience(timeout=5, deadline=.2, tries=2, pause=.005))
    assert time.monotonic() - began < 10 and stored(tmp_path) == []


def test_an_endless_download_ends(server):
    def endless(h):
        while not h.server.stop.is_set(): h.wfile.write(bytes(1 << 16))
    server.plays['1gbt'] = [send(length='', then=endless)]
    with pytest.raises(ConnectionError, match='^1GBT could not be fetched'): fetch('1GBT', patience=Patience(deadline=.1, tries=2, pause=.005))
    for _ in range(500):
        if server.now: time.sleep(.02)
    assert server.now == 0 # the thread that was given up has hung up


def test_a_cut_download_is_continued_where_the_server_allows(server):
    server.plays['1gbt'] = [send(keep=5000), send(keep=6000), send()]
    assert fetch('1GBT').read_bytes() == GOOD and [r for *_, r in server.log] == ['', 'bytes=5000-', 'bytes=11000-']


@pytest.mark.parametrize('how', [dict(tag='', date=''), dict(tag='W/"1"'), dict(ranges=False)], ids=['nothing to compare', 'weak tag', 'no ranges'])
def test_else_it_begins_again(server, how):
    server.plays['1gbt'] = [send(keep=5000, **how), send(**how)]
    assert fetch('1GBT').read_bytes() == GOOD and [r for *_, r in server.log] == ['', 'bytes=5000-' if 'ranges' in how else '']


def test_a_date_will_do_in_place_of_a_tag(server):
    how = dict(tag='', date='Wed, 21 Oct 2015 07:28:00 GMT')
    server.plays['1gbt'] = [send(keep=5000, **how), send(**how)]
    assert fetch('1GBT').read_bytes() == GOOD and server.log[-1][2] == 'bytes=5000-'


@pytest.mark.parametrize('strict', [True, False])
def test_a_file_that_changes_on_the_way(server, strict): # the server that does not heed If-Range is found out by its tag
    server.plays['1gbt'] = [send(keep=5000), send(OTHER, tag='"2"', strict=strict)]
    assert fetch('1GBT').read_bytes() == OTHER and len(server.log) == 2 + (not strict)


def test_a_tag_stays_with_its_file(server): # what came second has none, so that it cannot be continued
    server.plays['1gbt'] = [send(keep=5000), send(keep=4000, tag='', ranges=False), send()]
    assert fetch('1GBT').read_bytes() == GOOD and [r for *_, r in server.log] == ['', 'bytes=5000-', '']


def test_a_range_that_is_not_the_one_asked_for(server):
    def wrong(h):
        h.send_response(206)
        for k, v in (('Content-Range', f'bytes 0-{len(GOOD)-1}/{len(GOOD)}'), ('ETag', '"1"'), ('Content-Length', len(GOOD))): h.send_header(k, str(v))
        h.end_headers()
        h.wfile.write(GOOD)
    server.plays['1gbt'] = [send(keep=5000), wrong, send()]
    assert fetch('1GBT').read_bytes() == GOOD and [r for *_, r in server.log] == ['', 'bytes=5000-', '']


DAMAGED = dict(too_short=send(length=5000), too_long=send(length=len(GOOD) + 5000), page=send(b'<!DOCTYPE html><p>Service Unavailable'), zipped_page=send(gzip.compress(b'<html>no</html>')),
               empty=send(b''), cut_before_zip=send(gzip.compress(gzip.decompress(GOOD)[:-5000])), noise=send(bytes(range(256))*9), text=send(b'Please log in'),
               flipped=send(GOOD[:9000] + bytes([GOOD[9000] ^ 1]) + GOOD[9001:]), without_atoms=send(b'data_1GBT\n_entry.id 1GBT\n#\n'), chunks=send(length='', keep=9000))


@pytest.mark.parametrize('kind', DAMAGED)
def test_damage_is_found_and_never_stored(server, tmp_path, kind):
    server.plays['1gbt'] = [DAMAGED[kind]]
    with pytest.raises(ConnectionError, match='^1GBT could not be fetched.*tried 3 times') as e: fetch('1GBT')
    assert stored(tmp_path) == [] and '\n' not in str(e.value)
    server.plays['1gbt'] = [DAMAGED[kind], send(tag='"9"')]
    assert fetch('1GBT').read_bytes() == GOOD


@pytest.mark.parametrize('code', [404, 410])
def test_no_such_entry_is_final(server, tmp_path, code):
    server.plays['9abc'] = [lambda h: h.send_error(code)]
    with pytest.raises(ValueError, match=f'^9ABC: the PDB has no such entry .*HTTP {code}.*check the id'): fetch('9abc')
    assert len(server.log) == 1 and stored(tmp_path) == []


def test_a_refusal_is_final_but_no_answer(server):
    server.plays['9abc'] = [lambda h: h.send_error(403)]
    with pytest.raises(ConnectionError, match='^9ABC could not be fetched: 127.* refuses it .HTTP 403 Forbidden'): fetch('9ABC')
    assert len(server.log) == 1


@pytest.mark.parametrize('code', [408, 429, 500, 502, 503, 504])
def test_trouble_that_may_pass(server, code):
    server.plays['1gbt'] = [lambda h: h.send_error(code), send()]
    assert fetch('1GBT').read_bytes() == GOOD
    server.plays['9abc'] = [lambda h: h.send_error(code)]
    with pytest.raises(ConnectionError, match=f'^9ABC could not be fetched.*HTTP {code}.*tried 3 times'): fetch('9ABC')


@pytest.mark.parametrize('says, longest, low', [('60', .4, .39), ('in an hour', .4, .39), ('0', 60, 0), ('Thu, 01 Jan 1970 00:00:00 GMT', 60, 0), ('soon', 60, 0)])
def test_retry_after_is_heeded_up_to_a_limit(server, says, longest, low):
    if says == 'in an hour': says = formatdate(time.time() + 3600, usegmt=True) # not in the list: test names must not depend on the clock
    server.plays['1gbt'] = [send(b'', 429, Retry_After=says), send()]
    fetch('1GBT', patience=replace(USUAL, longest=longest))
    assert low <= server.log[1][0] - server.log[0][0] < 20


def test_pauses_grow(server):
    server.plays['9abc'] = [lambda h: h.send_error(500)]
    with pytest.raises(ConnectionError): fetch('9ABC', patience=Patience(tries=4, pause=.08))
    waits = np.diff([t for t, *_ in server.log])
    assert (waits > [.04, .08, .16]).all() and waits.max() < 10


def test_nobody_there(monkeypatch, server):
    monkeypatch.setenv('SA_TOOLKIT_RCSB', 'http://127.0.0.1:9')
    with pytest.raises(ConnectionError, match='^9XYZ could not be fetched from 127.0.0.1:9 .*refused.*check the network, or give a file instead'): read_chain('9XYZ')


def test_a_proxy_is_used(monkeypatch, server):
    monkeypatch.setenv('SA_TOOLKIT_RCSB', 'http://models.example')
    monkeypatch.setenv('http_proxy', server.url)
    monkeypatch.setattr(urllib.request, '_opener', None) # urlopen reads the environment once
    server.plays['1gbt'] = [send()]
    assert fetch('1GBT').read_bytes() == GOOD


def test_where_nothing_can_be_stored(monkeypatch, server, tmp_path):
    (tmp_path/'cache').write_text('a file, where a folder should be')
    server.plays['1gbt'] = [send()]
    with pytest.raises(OSError, match='^1GBT could not be stored in .*structures'): fetch('1GBT')


def test_a_damaged_cache_is_named(server, tmp_path):
    (tmp_path/'cache/structures').mkdir(parents=True)
    (tmp_path/'cache/structures/9xyz.bcif.gz').write_bytes(b'rubbish')
    with pytest.raises(ValueError, match='^9XYZ: .*remove .*9xyz.bcif.gz to fetch it again'): read_chain('9XYZ')


# ---- offline

@pytest.mark.parametrize('how', ['SA_TOOLKIT_OFFLINE', 'HF_HUB_OFFLINE', 'offline=True'])
def test_offline_only_the_cache_is_used(monkeypatch, server, how):
    server.plays['*'] = [send()]
    fetch('1GBT')
    if how != 'offline=True': monkeypatch.setenv(how, '1')
    off = dict(offline=True) if how == 'offline=True' else {}
    assert fetch('1gbt', **off).read_bytes() == GOOD
    for name in ('9ABC', 'AF-P69905-F1'):
        with pytest.raises(ConnectionError, match=f'^{name} is not in the cache .*must not be fetched .*{how}'): fetch(name, **off)
    names = [f'{k}abc' for k in range(1, 10)] + [f'{k}xyz' for k in range(1, 10)]
    paths, failures = fetch_all([*names, '1gbt'], **off)
    assert list(paths) == ['1gbt'] and list(failures) == names and all(how in v for v in failures.values()) and len(server.log) == 1


# ---- AlphaFold DB

def model(name, kind='bcif', host=''): return {f'{kind}Url': f'{host}/files/{name}.{kind}'}


def test_models_are_asked_for_by_accession(server, tmp_path):
    server.plays['p69905'] = [send(json.dumps([model(n, host=server.url) for n in ('AF-P69905-2-F1-model_v6', 'AF-P69905-F1-model_v6', 'AF-P69905-F11-model_v6')]).encode())]
    server.plays['af-p69905-f1-model_v6'] = [send(b'', 503), send(gzip.decompress(GOOD))]
    assert fetch('af-P69905-f1').name == 'AF-P69905-F1-model_v6.bcif' and [n for _, n, _ in server.log] == ['p69905'] + ['af-p69905-f1-model_v6']*2
    assert fetch('AF-P69905-F1-v6') == fetch('AF-P69905-F1_A') == cached('AF-P69905-F1') and len(server.log) == 3
    assert read_chain('AF-P69905-F1').source == 'AF-P69905-F1-model_v6.bcif' and len(read_one('AF-P69905-F1.A')) == 1
    with pytest.raises(ValueError, match='^AF-P69905-F1-model_v4: AlphaFold DB has no such model .it has AF-P69905-2-F1-model_v6.bcif'): fetch('AF-P69905-F1-v4')
    newer = tmp_path/'cache/structures/AF-P69905-F1/AF-P69905-F1-model_v10.bcif'
    newer.write_bytes(b'')
    assert cached('AF-P69905-F1') == newer and cached('AF-P69905-F1-model_v6').name.endswith('v6.bcif')


def test_isoforms_and_mmcif(server):
    cif = gzip.decompress((DATA/'1GBT.cif.gz').read_bytes())
    server.plays['p69905-2'] = [send(json.dumps([model('AF-P69905-2-F1-model_v6', 'cif', server.url)]).encode())]
    server.plays['af-p69905-2-f1-model_v6'] = [send(cif[:-5000].rstrip(b'#\n ')), send(cif)]
    assert fetch('AF-P69905-2-F1').read_bytes() == cif and len(server.log) == 3


def test_what_alphafold_db_may_answer(server, tmp_path):
    with pytest.raises(ValueError, match='^AF-Q99999-F1: AlphaFold DB has no such entry'): fetch('AF-Q99999-F1')
    server.plays['q99999'] = [send(b'[]')]
    with pytest.raises(ValueError, match='^AF-Q99999-F1: AlphaFold DB has no such model .it has none'): fetch('AF-Q99999-F1')
    for bad in (b'{"error": 1}', b'null', b'<html>', b'["x"]', b''):
        server.plays['q99999'] = [send(bad)]
        with pytest.raises(ConnectionError, match='^AF-Q99999-F1 could not be fetched.*the answer is no list of models'): fetch('AF-Q99999-F1')
    secret = tmp_path/'AF-Q99999-F1-model_v6.bcif' # an address of this machine is not followed
    secret.write_bytes(GOOD)
    server.plays['q99999'] = [send(json.dumps([dict(bcifUrl=secret.as_uri())]).encode())]
    with pytest.raises(ValueError, match='no such model'): fetch('AF-Q99999-F1')
    assert stored(tmp_path) == []


# ---- many

NAMES = [f'{k}{x}' for k in range(1, 10) for x in ('aaa', 'bbb', 'ccc')]


def test_many_at_most_so_many_at_once(server, tmp_path):
    under_way = [0]
    def slowly(h): # counted until the last bytes are about to be sent
        with server.lock: under_way[0] += 1
        with server.lock: under_way.append(under_way[0])
        time.sleep(.03)
        with server.lock: under_way[0] -= 1
        h.wfile.write(GOOD[9000:])
    server.plays['*'] = [send(keep=9000, then=slowly)]
    paths, failures = fetch_all([*NAMES, NAMES[0].upper(), NAMES[0] + '.A'], workers=3, progress=False)
    assert 1 < max(under_way) <= 3 and failures == {} and list(paths) == [*NAMES, '1AAA', '1aaa.A'] and len(server.log) == len(stored(tmp_path)) == len(NAMES)
    assert fetch_all(NAMES)[0] == {k: paths[k] for k in NAMES} and len(server.log) == len(NAMES)


def test_one_bad_entry_costs_one_line(server):
    server.plays |= {'*': [send()], '2bbb': [lambda h: h.send_error(404)], '3ccc': [send(keep=100, tag='')]}
    paths, failures = fetch_all([*NAMES, 'nonsense', '../../etc/passwd'])
    assert len(paths) == len(NAMES) - 2 and list(failures) == ['2bbb', '3ccc', 'nonsense', '../../etc/passwd']
    assert failures['2bbb'].startswith('2BBB: the PDB has no such entry') and failures['3ccc'].startswith('3CCC could not be fetched') and failures['nonsense'].startswith('nonsense is no id')


@pytest.mark.parametrize('code', [429, 503])
def test_a_busy_server_is_left_alone_by_all(server, code):
    server.plays['*'] = [*[send()]*5, send(b'', code, Retry_After='60'), send()]
    paths, failures = fetch_all(NAMES, workers=4, patience=replace(USUAL, longest=1))
    t = np.diff([t for t, *_ in server.log])
    assert failures == {} and len(paths) == len(NAMES) and t[5:20].max() > .3 # some were under way; without a pause for all, the one that was refused would come last, alone


def test_a_network_that_is_down_is_not_asked_for_everything(server, tmp_path):
    server.plays['*'] = [send()]
    fetch(NAMES[-1])
    server.plays['*'] = [lambda h: h.send_error(500)]
    paths, failures = fetch_all([*NAMES, *(f'{k}{x}' for k in range(1, 10) for x in ('xxx', 'yyy', 'zzz'))], workers=2)
    assert list(paths) == NAMES[-1:] and len(failures) == 53 and len(server.log) < 3*40
    assert sum('HTTP 500' in f and 'not tried' not in f for f in failures.values()) < 40 and all(f.startswith(n.upper()) for n, f in failures.items())
    assert 'was not tried, for 10 in a row could not be fetched: ' in failures['9zzz']


def test_an_interrupt_keeps_what_came_and_the_next_run_goes_on(server, tmp_path):
    server.plays |= {n: [send()] for n in NAMES[:10]} | {'*': [stall]}
    when = []
    def interrupt():
        while len(server.log) < 14 or len(stored(tmp_path)) < 10: time.sleep(.01)
        when.append(time.monotonic())
        _thread.interrupt_main()
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt): fetch_all(NAMES, patience=Patience(timeout=30))
    assert time.monotonic() - when[0] < 15 and stored(tmp_path) == sorted(f'{n}.bcif.gz' for n in NAMES[:10]) and len(server.log) == 14
    assert not [t for t in threading.enumerate() if 'ThreadPool' in t.name] # nothing goes on behind one's back
    server.plays['*'] = [send()]
    assert len(fetch_all(NAMES)[0]) == len(NAMES) and len(server.log) == 14 + len(NAMES) - 10


def test_two_threads_may_want_the_same(server):
    server.plays['1gbt'] = [send()]
    with ThreadPoolExecutor(8) as pool: files = list(pool.map(fetch, [f'1GBT.{k}' for k in range(40)]))
    assert {f.read_bytes() for f in files} == {GOOD}


def test_the_users_seed_is_left_alone(server):
    import random
    random.seed(0)
    first = random.random()
    random.seed(0)
    server.plays['1gbt'] = [send(b'', 500), send()]
    fetch('1GBT')
    assert random.random() == first


# ---- what there is to read

@pytest.fixture
def folder(tmp_path):
    for name in ('b/deep/1GBT.CIF.GZ', 'a/1A8O.pdb.gz', 'a/1A8O.cif.gz', '.hidden/1LCD.cif.gz', 'a/.1LCD.cif.gz', 'a/notes.txt', 'c.bcif'):
        (path := tmp_path/'in'/name).parent.mkdir(parents=True, exist_ok=True)
        source = DATA/{'1GBT.CIF.GZ': '1GBT.cif.gz', 'c.bcif': '1gbt.bcif.gz'}.get(path.name, path.name.lstrip('.'))
        path.write_bytes(source.read_bytes() if source.exists() else b'')
    return tmp_path/'in'


def test_inputs_of_a_folder(folder):
    names = ['a/1A8O.cif.gz', 'a/1A8O.pdb.gz', 'b/deep/1GBT.CIF.GZ', 'c.bcif']
    assert inputs(folder) == inputs(str(folder)) == inputs([folder, folder/'a', str(folder/'c.bcif')]) == [folder/n for n in names]
    assert [c.id for c in read_chains(folder)] == ['1A8O_A', '1A8O_A', '1GBT_A', '1GBT_A']
    assert {f'.{e}'[1:] for e in _FORMATS} == {e for e in _FORMATS if _FILE.search(f'x{e}') and _FILE.search(f'x{e.upper()}.gz')}


def test_inputs_of_linked_folders(folder, tmp_path):
    (tmp_path/'store').mkdir()
    (tmp_path/'store/x.pdb').write_bytes(b'')
    for name, target in (('d', tmp_path/'store'), ('e', folder), ('f', folder/'a'), ('b/up', tmp_path), ('.g', tmp_path/'store')): (folder/name).symlink_to(target)
    (folder/'h.cif').symlink_to(folder/'a/1A8O.cif.gz')
    found = inputs(folder)
    assert sorted(f.name for f in found) == ['1A8O.cif.gz', '1A8O.pdb.gz', '1GBT.CIF.GZ', 'c.bcif', 'h.cif', 'x.pdb'] and inputs(folder) == found
    assert [f.name for f in inputs(folder/'d')] == ['x.pdb'] # a link may be given, too


def test_inputs_of_a_list(folder, monkeypatch):
    (folder/'l.txt').write_text('\ufeff# of the group\r\n4hhb\r\n\r\na/1A8O.cif.gz\t# a comment\r\n4HHB\r\npdb_00004hhb_A\r\naf-p69905-f1\r\nmy file#1.cif\r\n', encoding='utf-8')
    want = ['4HHB', folder/'a/1A8O.cif.gz', '4HHB_A', 'AF-P69905-F1', 'my file#1.cif']
    assert inputs(folder/'l.txt') == want and inputs([folder/'l.txt', '4hhb']) == want
    monkeypatch.chdir(folder/'a')
    (folder/'b/l.list').write_text('1A8O.pdb.gz\ndeep\n')
    assert inputs(folder/'b/l.list') == [Path('1A8O.pdb.gz'), folder/'b/deep/1GBT.CIF.GZ']
    (folder/'me.txt').write_text('me.txt')
    assert inputs(folder/'me.txt') == [folder/'me.txt'] and inputs([]) == []


def test_nothing_to_read(tmp_path):
    (tmp_path/'none').mkdir()
    (tmp_path/'none.txt').write_text('# nothing\n')
    for x in ('none', 'none.txt'):
        with pytest.raises(ValueError, match=f'{x} holds no structure file'): read_chains(tmp_path/x)
    for read in (read_chain, read_one, read_chains):
        with pytest.raises(FileNotFoundError, match='nothing.cif is no file, and no id such as'): read('nothing.cif')
    with pytest.raises(FileNotFoundError, match='is a folder'): read_chain(tmp_path)


def test_what_fails_is_told_at_the_end(server, folder):
    server.plays['1gbt'] = [send()]
    (folder/'a/1A8O.cif.gz').write_bytes(b'rubbish')
    some, errors = [folder, '1gbt', '9abc', 'nonsense'], {}
    with pytest.warns(UserWarning, match=r'3 of 7 inputs could not be read: 9ABC: .* 1A8O.cif.gz cannot be read .* nonsense is no file') as told: chains = read_chains(some)
    assert sum(w.category is UserWarning for w in told) == 1 and [c.id for c in chains] == [c.id for c in read_chains(some, errors=errors)] == ['1A8O_A'] + ['1GBT_A']*3
    assert set(errors) == {folder/'a/1A8O.cif.gz', '9ABC', 'nonsense'} and [n for _, n, _ in server.log].count('1gbt') == 1
    with pytest.raises(ValueError, match='2 of 2 inputs could not be read'): read_chains(['9abc', 'nonsense'])
    assert read_chains('9abc', errors=errors) == [] and 'no such entry' in errors['9ABC']


# ---- the package's example chains

def test_example_ids_need_no_network(server):
    c = example_chains()[0]
    assert read_chain(c.id).id == c.id and c.id in [x.id for x in read_chains(c.id.split('_')[0])] and any('an example chain of the package' in n for n in read_chain(c.id).notes)
    assert [x.id for x in read_chains([c.id, c.id.split('_')[0]])] and server.log == []


def test_a_chain_that_the_package_does_not_carry(server, monkeypatch):
    with pytest.raises(ValueError, match='^1UBI: the PDB has no such entry'): read_chain('1UBI', 'Z')
    server.plays['1ubi'] = [stall]
    monkeypatch.setattr(module, 'PATIENCE', replace(USUAL, timeout=.2, tries=1))
    with pytest.raises(ConnectionError, match='^1UBI could not be fetched.* The package carries 1UBI_A of it.$'): read_chain('1UBI', 'Z')
    for read in (lambda: read_chain('1UBI', strict=True), lambda: read_one('1UBI', examples=False), lambda: read_chains('1UBI', strict=True)):
        with pytest.raises(ConnectionError, match='The package carries 1UBI_A of it.$'): read()


def test_a_fetched_entry_is_read_in_place_of_its_example(server):
    server.plays['3jqh'] = [send(OTHER)]
    id = next(c.id for c in example_chains() if c.id.startswith('3JQH'))
    fetch(id)
    assert not any('example chain' in n for n in read_chain(id).notes) and read_chain(id).source == '3jqh.bcif.gz'
    assert read_chain(asset('structures/3jqh.bcif.gz')).sequence == read_chain(id).sequence == example_chain(id).sequence
