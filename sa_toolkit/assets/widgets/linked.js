// A contact map, a structure and a sequence that point at the same residues; common.js goes before.

// As in views.py: GAINED, LOST, BLUE, SLATE and CHANGE; a test holds them equal
const FOUND = '#1f86cc', WRONG = '#d55e00', AHEAD = ['#3274b500', '#3274b5ff'], KNOWN = ['#7c899600', '#7c8996ff'];
const CHANGE = ['#d55e00ff', '#d55e0080', '#80808000', '#1f86cc80', '#1f86ccff'];
const DIM = 0.12; // what is left of the opacity of pairs outside the range, as in drawing.py

// ---- which pairs are named; the same as named.py ----

const pairIndex = (n, i, j) => i * (2 * n - i - 1) / 2 + j - i - 1; // of the upper triangle, row by row

function topPairs(values, { resolved: seen, true: known, top }, n, [low, high]) {
  const resolved = known ? seen : seen.map(() => true); // without a structure every residue may be named
  const most = Math.max(1, Math.floor(top * resolved.filter(Boolean).length)), found = [], at = [];
  for (let i = 0; i < n; i++)
    for (let j = i + low; resolved[i] && j < Math.min(n, i + (high ?? n) + 1); j++)
      if (resolved[j]) { at.push(i * n + j); found.push(values[pairIndex(n, i, j)]); }
  const least = found.length > most ? Float32Array.from(found).sort()[found.length - most] : -Infinity;
  const order = [], level = []; // of those on the limit, the first ones
  found.forEach((p, k) => { if (p > least) order.push(k); else if (p === least) level.push(k); });
  return order.concat(level.slice(0, most - order.length)).sort((a, b) => found[b] - found[a] || a - b)
    .map(k => [Math.floor(at[k] / n), at[k] % n, found[k]]);
}

// Everything that follows from the range and the threshold
function reading(data, n, { range, threshold }) {
  if (!data.maps) return null;
  const best = (data.cache[range] ??= data.maps.map(map => topPairs(map.values, data, n, data.ranges[range])));
  const known = data.true, right = ([i, j]) => known[pairIndex(n, i, j)] === 1;
  const named = best.map(pairs => pairs.filter(([, , p]) => p >= threshold));
  const mark = (name, pairs, color, side, filled, line) => ({ name: `${name} (${pairs.length})`, pairs, color, side, filled, line });
  const sorted = pairs => [...pairs].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  if (!known) return { named, marks: [mark('named', sorted(named[0]), FOUND, 'upper', false, 'solid')] };
  const tally = best.map((pairs, k) => ({ best: [pairs.filter(right).length, pairs.length], named: [named[k].filter(right).length, named[k].length] }));
  const has = named.map(pairs => new Set(pairs.map(([i, j]) => i * n + j)));
  const hits = named.map(pairs => pairs.filter(right)), only = (k, other) => sorted(hits[k].filter(([i, j]) => !has[other].has(i * n + j)));
  const marks = named.length === 1
    ? [mark('right', sorted(hits[0]), FOUND, 'upper', false, 'solid'), mark('wrong', sorted(named[0].filter(pair => !right(pair))), WRONG, 'upper', false, 'dashed')]
    : [mark('gained', only(1, 0), FOUND, 'upper', true, 'solid'), mark('lost', only(0, 1), WRONG, 'lower', true, 'dashed')];
  return { named, tally, marks, kept: named.length === 2 ? hits[1].length - marks[0].pairs.length : 0 };
}

// The share of true pairs among the named ones, which follows the threshold, and P@L, which knows none
function summary(data, { named, tally, marks, kept }, { range, threshold }) {
  const [low, high] = data.ranges[range], where = `separation ${high ? `${low}–${high}` : `≥ ${low}`}${threshold > 0 ? `, probability ≥ ${threshold.toFixed(2)}` : ''}`;
  if (!data.true) return `${named[0].length} pairs named (${where}); no structure tells which are true`;
  const ofNamed = ({ named: [hits, all] }) => all ? `${hits}/${all} true (${Math.round(100 * hits / all)} %)` : 'none';
  const ofBest = ({ best: [hits, all] }) => all ? (hits / all).toFixed(2) : '–';
  const at = data.top === 1 ? 'P@L' : `P@${data.top}L`, each = (say, between) => data.maps.map((map, k) => `${map.name} ${say(tally[k])}`).join(between);
  if (named.length === 1) return `named ${ofNamed(tally[0])}: ${where} · ${at} ${ofBest(tally[0])} at any probability`;
  const moved = `${marks[0].pairs.length} gained, ${marks[1].pairs.length} lost, ${kept} kept`;
  return `among named: ${each(ofNamed, ', ')}: ${moved} (${where}) · ${at} at any probability: ${each(ofBest, ' → ')}`;
}

// ---- legend ----

const scaleOf = ({ ramp, low, high }) => JSON.stringify([ramp, low, high]);

function mapLegend(parent, data, marks) {
  for (const [k, layer] of data.layers.entries()) {
    const corner = layer.side === 'both' ? null : layer.side, next = data.layers[k + 1];
    if (layer.words) swatchKey(parent, { name: layer.name, color: layer.ramp.at(-1), shape: 'full' }, corner);
    else if (next && scaleOf(next) === scaleOf(layer)) cornerKey(parent, layer.name, corner); // the next one shows the scale
    else scaleKey(parent, layer, corner);
  }
  for (const mark of [...data.marks, ...marks]) swatchKey(parent, { ...mark, shape: mark.filled ? 'full' : 'open' });
}

// ---- contact map ----

const upperOf = ([i, j]) => [Math.min(i, j), Math.max(i, j)];
const cellsOf = { upper: pair => [upperOf(pair)], lower: pair => [upperOf(pair).reverse()],
  both: pair => [upperOf(pair), upperOf(pair).reverse()] };
const layerAt = (data, i, j) => data.layers.find(layer => layer.side === 'both' || layer.side === (i < j ? 'upper' : 'lower'));

// The later map less the earlier, on a scale even around zero that ends at the greatest change
function changeShown(data, read, half) {
  const [b, a] = data.maps, most = (data.most ??= a.values.reduce((top, value, k) => Math.max(top, Math.abs(value - b.values[k])), 0) || 1);
  const level = (i, j) => i === j ? 128 : 1 + Math.round(127 * (1 + (half(a.values, i, j) - half(b.values, i, j)) / most));
  const layers = [{ name: `${a.name} − ${b.name}`, side: 'both', ramp: CHANGE, low: signed(-most), high: signed(most) }];
  return { layers, marks: read.marks.map(mark => ({ ...mark, side: 'both', filled: false })), value: level };
}

const signed = x => (x > 0 ? '+' : '') + x.toFixed(2).replace('-', '−');

// What one way of showing the map is made of: layers, (i, j) → value of 0 to 255, marks beside those of the view
function shownAs(mode, data, n, read) {
  const half = (from, i, j) => i === j ? 0 : from[pairIndex(n, Math.min(i, j), Math.max(i, j))];
  if (mode === 'change') return changeShown(data, read, half);
  const layer = (name, ramp, words) => ({ name, side: 'both', ramp, low: 0, high: 1, words });
  const wide = marks => marks.map(mark => ({ ...mark, side: 'both' }));
  if (mode === 'predicted') return { layers: [layer('predicted', AHEAD)], marks: wide(read.marks), value: (i, j) => i === j ? 0 : 1 + Math.round(254 * half(data.maps[0].values, i, j)) };
  const known = (i, j) => data.resolved[i] && data.resolved[j] ? 1 + 254 * (i === j ? 1 : half(data.true, i, j)) : 0;
  if (mode === 'true') return { layers: [layer('true contacts', KNOWN, true)], marks: [], value: known };
  if (mode === 'difference') {
    const marks = wide(read.marks).map(mark => ({ ...mark, filled: true }));
    return { layers: [layer('true, not named', KNOWN, true)], marks, value: known };
  }
  return { layers: data.layers, marks: read?.marks ?? [], value: (i, j) => data.values[i * n + j] };
}

function mapImage({ layers, value }, n, range) {
  const packed = ({ ramp }, share) => Uint32Array.from(rampTable(ramp), ([r, g, b, a]) => (Math.round(a * share) << 24 | Math.round(b) << 16 | Math.round(g) << 8 | Math.round(r)) >>> 0);
  const tables = share => [0, 1].map(i => packed(layerAt({ layers }, i, 1 - i), share)), [near, far] = [tables(1), tables(DIM)];
  const pixels = new Uint32Array(n * n), [low, high] = range ?? [0, null];
  for (let i = 0, k = 0; i < n; i++)
    for (let j = 0; j < n; j++, k++) {
      const apart = Math.abs(i - j), inside = apart >= low && apart <= (high ?? n);
      pixels[k] = (inside ? near : far)[i < j ? 0 : 1][value(i, j)];
    }
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = n;
  canvas.getContext('2d').putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), n, n), 0, 0);
  return canvas;
}

function drawMarks(pen, marks, cell) {
  const side = Math.max(cell, 4);
  for (const { pairs, color, filled, side: where } of marks)
    for (const pair of pairs)
      for (const [i, j] of cellsOf[where](pair)) {
        const x = (j + 0.5) * cell - side / 2, y = (i + 0.5) * cell - side / 2;
        pen.fillStyle = pen.strokeStyle = color;
        if (filled) pen.fillRect(x, y, side, side);
        else pen.strokeRect(x, y, side, side);
      }
}

function drawPointer(pen, positions, cell, strength) {
  if (!positions.length) return;
  const [i, j] = [positions[0], positions.at(-1)];
  pen.fillStyle = ACCENT;
  pen.globalAlpha = 0.3 * strength;
  const band = Math.max(cell, 1.5);
  pen.fillRect(0, (i + 0.5) * cell - band / 2, SIZE, band);
  pen.fillRect((j + 0.5) * cell - band / 2, 0, band, SIZE);
  pen.globalAlpha = strength;
  const side = Math.max(cell, 4) + 4;
  for (const [color, width] of [['#ffffff', 3.5], [ACCENT, 1.75]]) { // a white halo, for dark cells
    pen.strokeStyle = color;
    pen.lineWidth = width;
    for (const [y, x] of [[i, j], [j, i]]) pen.strokeRect((x + 0.5) * cell - side / 2, (y + 0.5) * cell - side / 2, side, side);
  }
  pen.globalAlpha = 1;
}

function mapPanel(parent, data, n, report) {
  const cell = SIZE / n, frame = add(parent, 'div', 'sa-frame sa-map-frame sa-fits');
  const [, ground] = sheet(frame, 'sa-map-image', SIZE, SIZE), [over, pen] = sheet(frame, 'sa-map', SIZE, SIZE);
  for (const [i, text] of data.ticks) {
    add(frame, 'span', 'sa-tick sa-tick-left', text).style.top = `${(i + 0.5) / n * 100}%`;
    add(frame, 'span', 'sa-tick sa-tick-bottom', text).style.left = `${(i + 0.5) / n * 100}%`;
  }
  if (data.no_map) add(frame, 'div', 'sa-notice', data.no_map);
  ground.imageSmoothingEnabled = n > SIZE;

  const at = event => [event.offsetY, event.offsetX].map(px => clamp(Math.floor(px / over.clientWidth * n), n)); // narrower on a phone
  over.tabIndex = 0;
  over.setAttribute('role', 'application'); // or a screen reader would keep the arrow keys to itself
  over.setAttribute('aria-label', 'Contact map. Up and down arrow keys move the first residue of the selected pair, left and right ones the second; Escape clears. Or click a pair.');
  // A click comes at whole pixels, which can be another pair than the one pointed at.
  let pointed = [0, 0], image = {};
  const point = event => report.hover(pointed = at(event));
  over.addEventListener('pointermove', point);
  over.addEventListener('pointerdown', point);
  over.addEventListener('pointerleave', () => report.hover([]));
  over.addEventListener('click', () => { over.focus({ preventScroll: true }); report.pick(pointed); });
  over.addEventListener('keydown', event => report.key(event, 2));
  return {
    draw(mode, shown, range) {
      const of = `${mode} ${range}`;
      if (image.of !== of) image = { of, canvas: mapImage(shown, n, range) };
      ground.clearRect(0, 0, SIZE, SIZE);
      ground.drawImage(image.canvas, 0, 0, SIZE, SIZE);
      drawMarks(ground, [...data.marks, ...shown.marks], cell);
    },
    show({ selection, hover }) {
      pen.clearRect(0, 0, SIZE, SIZE);
      drawPointer(pen, selection, cell, 1);
      drawPointer(pen, hover, cell, 0.6);
    },
  };
}

// ---- what is pointed at, in words ----

function valueAt(data, n, i, j) {
  const layer = layerAt(data, i, j), value = data.values[i * n + j];
  if (!value) return `${layer.name} unknown`;
  if (layer.words) return layer.words[value > 127 ? 1 : 0];
  return `${layer.name} ${(layer.low + (value - 1) / 254 * (layer.high - layer.low)).toFixed(2)}`;
}

function pairValues(data, n, i, j) {
  if (!data.maps) return (data.layers.length > 1 ? cellsOf.both([i, j]) : [[i, j]]).map(cell => valueAt(data, n, ...cell));
  const at = pairIndex(n, ...upperOf([i, j])), said = data.maps.map(({ name, values }) => `${name} ${values[at].toFixed(2)}`);
  if (data.maps.length === 2) said.push(`change ${signed(data.maps[1].values[at] - data.maps[0].values[at])}`);
  if (!data.true) return said;
  return [...said, data.resolved[i] && data.resolved[j] ? (data.true[at] ? 'contact' : 'no contact') : 'contact unknown'];
}

function words(data, n, positions) {
  if (!positions.length) return '';
  const name = i => data.names[i] + (data.resolved[i] || !data.pdb ? '' : ' (unresolved)');
  const [i, j] = [positions[0], positions.at(-1)];
  if (i === j) return [name(i), data.paint.words?.[i], ...(data.tracks ?? []).map(track => track.words[i])].filter(Boolean).join(' · ');
  const parts = [`${name(i)} – ${name(j)}`];
  if (data.cb[i] && data.cb[j]) parts.push(`Cβ–Cβ ${Math.hypot(...data.cb[i].map((x, k) => x - data.cb[j][k])).toFixed(1)} Å`);
  return parts.concat(pairValues(data, n, i, j)).join(' · ');
}

// ---- gained and lost contacts, to be clicked ----

function pairList(parent, data, report) {
  const box = add(parent, 'div', 'sa-pairs');
  return {
    show(marks) {
      box.replaceChildren();
      for (const { name, pairs, color } of marks) {
        const row = add(box, 'div', 'sa-pair-row');
        add(row, 'span', 'sa-pair-name', name).style.borderLeftColor = color;
        for (const [i, j] of pairs) add(row, 'button', 'sa-pair', `${data.names[i]}–${data.names[j]}`).addEventListener('click', () => report.pick([i, j]));
      }
    },
  };
}

// ---- controls ----

function controlBar(bar, data, read, change) {
  const now = read(), inputs = {};
  const turn = name => (value, final) => change({ [name]: value }, final);
  if (data.modes) inputs.map = selectInput(bar, 'map', data.modes.map(mode => [mode, mode]), now.map, turn('map'));
  if (data.ranges) inputs.range = selectInput(bar, 'range', Object.entries(data.ranges).map(([key, [low, high]]) => [key, `${key} ${high ? `${low}–${high}` : `≥ ${low}`}`]), now.range, turn('range'));
  if (data.maps) inputs.threshold = sliderInput(bar, 'probability ≥', now.threshold, turn('threshold'));
  for (const [name, label, there] of [['sides', 'side chains', data.sides], ['ligands', 'ligands', data.ligands?.length], ['contacts', 'contacts', data.maps && data.pdb]])
    if (there) inputs[name] = checkInput(bar, label, now[name], turn(name));
  if (!Object.keys(inputs).length) bar.remove();
  return next => { for (const [name, input] of Object.entries(inputs)) input[input.type === 'checkbox' ? 'checked' : 'value'] = next[name]; };
}

// ---- the view ----

function unpackedData(model) {
  const data = { ...model.get('data'), cache: {} };
  if (data.matrix) data.values = bytesOf(data.matrix);
  if (data.maps) data.maps = data.maps.map(({ name, values }) => ({ name, values: listOf(Float32Array, values) }));
  if (data.true) data.true = bytesOf(data.true);
  return data;
}

function build(model, el) {
  const data = unpackedData(model), n = data.sequence.length, state = { selection: [], hover: [], note: '' };
  const { root, left, right } = layout(el, data), panels = [];
  const controls = { map: 'both', range: 'all', threshold: 0, sides: false, ligands: true, contacts: true, ...model.get('controls') };
  const show = () => {
    state.selection = model.get('selection');
    root.dataset.selection = state.selection.join();
    readout.textContent = state.note || words(data, n, state.hover.length ? state.hover : state.selection) || data.hint;
    for (const panel of panels) panel.show({ ...state });
  };
  const redraw = () => {
    const read = state.reading = reading(data, n, controls), marks = read?.marks ?? [];
    const shown = shownAs(controls.map, data, n, read);
    map.draw(controls.map, shown, controls.range === 'all' ? null : data.ranges[controls.range]);
    [...legends.map, ...legends.scene].forEach(box => box.replaceChildren());
    mapLegend(legends.map[0], { ...data, layers: shown.layers }, shown.marks);
    if (data.pdb) sceneLegend(legends.scene[0], { ...data, marks: [...data.marks, ...(controls.contacts ? marks : [])] });
    state.lines = controls.contacts ? marks : [];
    state.show = { sides: controls.sides, ligands: controls.ligands };
    if (read) tally.textContent = summary(data, read, controls);
    list?.show(marks);
    root.dataset.controls = JSON.stringify(controls);
    show();
  };
  const change = (part, final) => {
    Object.assign(controls, part);
    redraw();
    if (!final) return;
    model.set('controls', { ...controls });
    model.save_changes();
  };
  const bar = add(root, 'div', 'sa-controls');
  left.parentElement.before(bar);
  const steer = controlBar(bar, data, () => controls, change);
  const report = reporter(model, n, state, show);
  const scene = scenePanel(right, data, report, model, root), map = mapPanel(left, data, n, report);
  panels.push(map, scene);
  const legends = { map: [add(left, 'div', 'sa-legend')], scene: [add(right, 'div', 'sa-legend')] };
  const tally = add(root, 'div', 'sa-tally'), readout = add(root, 'div', 'sa-readout');
  for (const box of [tally, readout]) box.setAttribute('aria-live', 'polite');
  const list = data.maps?.length === 2 ? pairList(root, data, report) : null;
  panels.push(sequencePanel(root, data, report));
  if (data.tracks?.length) trackLegend(add(root, 'div', 'sa-legend sa-track-legend'), data);
  if (data.caption) add(root, 'div', 'sa-caption', data.caption);
  redraw();
  el.__saView = { scene, state, data, controls }; // for tests
  const obey = () => { Object.assign(controls, model.get('controls')); steer(controls); redraw(); };
  return { show: name => name === 'controls' ? obey() : show(), dispose: () => { scene.dispose(); root.remove(); } };
}

const render = renderer(build, 'selection', 'controls');

export default { render };
