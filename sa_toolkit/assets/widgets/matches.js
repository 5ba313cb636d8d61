
// Sequence states against structure states of some proteins, and what is nearest to a picked
// residue. `common.js` goes before. Residues of all proteins are numbered through; a panel that
// shows one protein (structure, sequence, curve) counts from its start.

const PANELS = 4; // nearest residues that are shown in 3D
const NEAR = 4; // residues to either side that are superposed
const MATCH = '#1f86cc', TOUCHED = '#9cc3e3', PLAIN = '#c3ccd6', EARLIER = '#8f9ba7';
const RISE = ['#d55e00', '#f0f2f4', '#1f86cc'], RISE_CLEAR = ['#d55e00ff', '#8f9ba700', '#1f86ccff'];

// ---- data ----

function prepare(raw) {
  const data = { ...raw, starts: [], n: 0 };
  for (const chain of data.chains) {
    data.starts.push(data.n);
    data.n += chain.sequence.length;
  }
  data.states = raw.states.map(state => ({ name: state.name, matrix: bytesOf(state.matrix), score: listOf(Float32Array, state.score),
    rank: listOf(Int32Array, state.rank), index: listOf(Int32Array, state.index), similarity: listOf(Float32Array, state.similarity),
    rmsd: listOf(Float32Array, state.rmsd), turn: listOf(Float32Array, state.turn) }));
  data.modes = data.states.map(state => stateMode(data, state));
  if (data.states.length === 2) data.modes.push(changeMode(data, ...data.states));
  return data;
}

function stateMode({ low, high, ramp }, state) {
  const step = (high - low) / 254, { matrix, score } = state;
  return { name: state.name, said: 'cosine', state, ramp, low, high, table: rampTable(ramp), flat: rampTable(ramp),
    level: at => matrix[at], value: at => matrix[at] ? low + (matrix[at] - 1) * step : NaN, score: i => score[i] };
}

function changeMode({ low, high }, before, after) {
  const [b, a] = [before.matrix, after.matrix], step = (high - low) / 254;
  let most = 1;
  for (let at = 0; at < a.length; at++) if (a[at] && b[at]) most = Math.max(most, Math.abs(a[at] - b[at]));
  const limit = most * step, known = at => a[at] && b[at];
  return { name: 'change', said: `cosine, ${after.name} minus ${before.name}`, state: after, ramp: RISE, low: -limit, high: limit, table: rampTable(RISE_CLEAR), flat: rampTable(RISE),
    level: at => known(at) ? 128 + Math.round((a[at] - b[at]) / most * 127) : 0, value: at => known(at) ? (a[at] - b[at]) * step : NaN,
    score: i => after.score[i] - before.score[i] };
}

function placeOf(data, i) {
  const p = data.starts.findLastIndex(start => start <= i);
  return [p, i - data.starts[p]];
}

const hex = color => '#' + color.slice(0, 3).map(part => Math.round(part).toString(16).padStart(2, '0')).join('');
function shadeOf(mode, value) {
  if (Number.isNaN(value)) return '#b9bec4';
  return hex(mode.flat[1 + Math.round(254 * Math.max(0, Math.min(1, (value - mode.low) / (mode.high - mode.low))))]);
}

const nameOf = (data, i) => { const [p, r] = placeOf(data, i); return data.chains[p].names[r]; };
const fullName = (data, i) => data.chains.length > 1 ? `${data.chains[placeOf(data, i)[0]].title} ${nameOf(data, i)}` : nameOf(data, i);

// ---- similarity matrix ----

function gridImage(data, mode) {
  const image = new ImageData(data.n, data.n), words = new Uint32Array(image.data.buffer);
  const table = new Uint32Array(new Uint8ClampedArray(mode.table.flatMap(color => color.map(Math.round))).buffer);
  for (let at = 0; at < words.length; at++) words[at] = table[mode.level(at)];
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = data.n;
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

function gridTicks(frame, data, range) {
  frame.querySelectorAll('.sa-tick').forEach(node => node.remove());
  const both = (text, at, kind) => {
    add(frame, 'span', `sa-tick sa-tick-left ${kind}`, text).style.top = `${100 * at}%`;
    add(frame, 'span', `sa-tick sa-tick-bottom ${kind}`, text).style.left = `${100 * at}%`;
  };
  const n = range[1] - range[0], shown = data.chains.map((chain, p) => [chain, data.starts[p]]).filter(([, start]) => start >= range[0] && start < range[1]);
  if (shown.length === 1) for (const [i, text] of shown[0][0].ticks) both(text, (i + 0.5) / n, '');
  else for (const [chain, start] of shown) {
    const share = chain.sequence.length / n;
    if (share > 0.06) both(chain.title, (start - range[0]) / n + share / 2, 'sa-tick-name');
  }
  frame.querySelectorAll('.sa-tick-name').forEach(node => { // a long name may take as much room as its block
    const chain = shown.find(([{ title }]) => title === node.textContent)[0];
    node.style.setProperty('--sa-room', `calc(${100 * chain.sequence.length / n}% - 6px)`);
  });
}

function gridPanel(parent, data, state, report) {
  const frame = add(parent, 'div', 'sa-frame sa-map-frame sa-fits'), images = new Map();
  const [, ground] = sheet(frame, 'sa-map-image', SIZE, SIZE), [over, pen] = sheet(frame, 'sa-map', SIZE, SIZE);
  let range, cell, drawn = '';
  const paintGround = () => {
    const mode = data.modes[state.mode];
    range = state.whole ? [0, data.n] : [data.starts[state.chain], data.starts[state.chain] + data.chains[state.chain].sequence.length];
    cell = SIZE / (range[1] - range[0]);
    const key = `${state.mode} ${range}`;
    if (key === drawn) return;
    drawn = key;
    if (!images.has(mode)) images.set(mode, gridImage(data, mode));
    ground.clearRect(0, 0, SIZE, SIZE);
    ground.imageSmoothingEnabled = cell < 1;
    ground.imageSmoothingQuality = 'high';
    const [from, wide] = [range[0], range[1] - range[0]];
    ground.drawImage(images.get(mode), from, from, wide, wide, 0, 0, SIZE, SIZE);
    ground.fillStyle = 'rgba(255,255,255,0.85)';
    for (const start of data.starts) if (start > range[0] && start < range[1])
      for (const [w, h] of [[SIZE, 1], [1, SIZE]]) ground.fillRect(w > 1 ? 0 : (start - from) * cell - 0.5, h > 1 ? 0 : (start - from) * cell - 0.5, w, h);
    gridTicks(frame, data, range);
  };
  const square = (i, j, color, size) => {
    const side = Math.max(cell, 3) + size, [x, y] = [j, i].map(at => (at - range[0] + 0.5) * cell - side / 2);
    for (const [stroke, width] of [['#ffffff', 3.5], [color, 1.75]]) {
      pen.strokeStyle = stroke;
      pen.lineWidth = width;
      pen.strokeRect(x, y, side, side);
    }
  };
  const band = (at, across, strength) => {
    const size = Math.max(cell, 1.5), from = (at - range[0] + 0.5) * cell - size / 2;
    pen.globalAlpha = strength;
    pen.fillStyle = ACCENT;
    pen.fillRect(across ? 0 : from, across ? from : 0, across ? SIZE : size, across ? size : SIZE);
    pen.globalAlpha = 1;
  };
  const at = event => [event.offsetY, event.offsetX].map(px => range[0] + clamp(Math.floor(px / over.clientWidth * (range[1] - range[0])), range[1] - range[0])); // narrower on a phone
  over.tabIndex = 0;
  over.setAttribute('role', 'application'); // a screen reader hands the arrow keys on
  over.setAttribute('aria-label', 'Similarity of sequence states, in rows, and structure states, in columns. Click a row to pick its residue; up and left arrow pick the one before, down and right the one after, Escape lets go.');
  let pointed = [0, 0]; // a click comes at whole pixels, which can be another cell than the one pointed at
  const point = event => report.hover(pointed = at(event));
  over.addEventListener('pointermove', point);
  over.addEventListener('pointerdown', point);
  over.addEventListener('pointerleave', () => report.hover(null));
  over.addEventListener('click', () => { over.focus({ preventScroll: true }); report.pick(pointed[0]); });
  over.addEventListener('keydown', report.key);
  return {
    show() {
      paintGround();
      pen.clearRect(0, 0, SIZE, SIZE);
      const { pick, hover } = state;
      if (hover) { band(hover[0], true, 0.25); band(hover[1], false, 0.25); }
      if (pick === null) return;
      band(pick, true, 0.35);
      for (const { j } of report.matches()) if (j >= range[0] && j < range[1]) square(pick, j, MATCH, 2);
      square(pick, pick, ACCENT, 4);
    },
  };
}

// ---- score along the sequence ----

function curvePanel(parent, data, state, report) {
  const [wide, high] = [2 * SIZE + 16, 58], frame = add(parent, 'div', 'sa-curve');
  const [, ground] = sheet(frame, 'sa-curve-image', wide, high), [over, pen] = sheet(frame, 'sa-curve-over', wide, high);
  let drawn = '', n = 1, start = 0;
  const y = value => high - 3 - (value - data.low) / (data.high - data.low) * (high - 6);
  const line = (score, color, width) => {
    ground.beginPath();
    let pen = 'moveTo';
    for (let r = 0; r < n; r++) {
      if (Number.isNaN(score[start + r])) { pen = 'moveTo'; continue; }
      ground[pen]((r + 0.5) / n * wide, y(score[start + r]));
      pen = 'lineTo';
    }
    Object.assign(ground, { strokeStyle: color, lineWidth: width, lineJoin: 'round' });
    ground.stroke();
  };
  const paintGround = () => {
    const key = `${state.chain} ${state.mode}`, mode = data.modes[state.mode];
    if (key === drawn) return;
    drawn = key;
    [n, start] = [data.chains[state.chain].sequence.length, data.starts[state.chain]];
    ground.clearRect(0, 0, wide, high);
    ground.fillStyle = 'rgba(127,138,150,0.45)';
    ground.fillRect(0, y(0), wide, 1);
    if (mode.name === 'change') for (let r = 0; r < n; r++) {
      const [b, a] = data.states.map(one => y(one.score[start + r]));
      if (Number.isNaN(a)) continue;
      ground.fillStyle = a < b ? MATCH : RISE[0];
      ground.fillRect(r / n * wide, Math.min(a, b), Math.max(1, wide / n - 0.6), Math.max(1, Math.abs(a - b)));
    }
    else data.states.forEach((one, k) => { if (one !== mode.state) line(one.score, EARLIER, 1.2); });
    if (mode.name !== 'change') line(mode.state.score, MATCH, 1.8);
  };
  over.addEventListener('pointermove', event => { const i = start + Math.max(0, Math.min(n - 1, Math.floor(event.offsetX / over.clientWidth * n))); report.hover([i, i]); });
  over.addEventListener('pointerleave', () => report.hover(null));
  over.addEventListener('click', event => report.pick(start + Math.max(0, Math.min(n - 1, Math.floor(event.offsetX / over.clientWidth * n)))));
  const upright = (i, strength) => {
    if (i === undefined || i === null || i < start || i >= start + n) return;
    pen.globalAlpha = strength;
    pen.fillStyle = ACCENT;
    pen.fillRect((i - start + 0.5) / n * wide - 1, 0, 2, high);
    pen.globalAlpha = 1;
  };
  return { show() { paintGround(); pen.clearRect(0, 0, wide, high); upright(state.hover?.[0], 0.5); upright(state.pick, 1); } };
}

function curveLegend(parent, data, state) {
  const mode = data.modes[state.mode];
  parent.replaceChildren();
  add(parent, 'span', 'sa-key sa-soft', 'cosine of own pair along the sequence:');
  if (mode.name === 'change') for (const [name, color] of [['higher after', MATCH], ['lower after', RISE[0]]]) swatchKey(parent, { name, color, shape: 'full' });
  else for (const one of data.states) swatchKey(parent, { name: one.name, color: one === mode.state ? MATCH : EARLIER, shape: 'solid' });
}

// ---- rotations, as quaternions x, y, z, w ----

const conjugate = ([x, y, z, w]) => [-x, -y, -z, w];
const product = ([a, b, c, d], [x, y, z, w]) =>
  [d * x + a * w + b * z - c * y, d * y - a * z + b * w + c * x, d * z + a * y - b * x + c * w, d * w - a * x - b * y - c * z];
const turned = (q, v) => product(product(q, [...v, 0]), conjugate(q)).slice(0, 3);

function towardsEye(v) { // the turn that brings v to the front
  const size = Math.hypot(...v) || 1, [x, y, z] = v.map(part => part / size);
  if (z < -0.9999) return [1, 0, 0, 0];
  const q = [y, -x, 0, 1 + z], length = Math.hypot(...q);
  return q.map(part => part / length);
}

const plus = (a, b, sign = 1) => a.map((part, k) => part + sign * b[k]);
const mean = points => points.reduce((sum, p) => plus(sum, p), [0, 0, 0]).map(part => part / points.length);

// Places around two residues that both structures have, and their middles
function paired(data, i, j) {
  const [[p, r], [q, s]] = [placeOf(data, i), placeOf(data, j)], res = [];
  for (let k = -NEAR; k <= NEAR; k++) {
    const [x, y] = [data.chains[p].ca[r + k], data.chains[q].ca[s + k]];
    if (x && y) res.push([k, x, y]);
  }
  return { offsets: res.map(one => one[0]), x: res.map(one => one[1]), y: res.map(one => one[2]) };
}

// ---- nearest residues ----

function matchStyle(chain, s) {
  const here = chain.cb[s], near = chain.cb.map((x, k) => x && here && Math.hypot(...plus(x, here, -1)) < 8);
  return { cartoon: { arrows: true, thickness: 0.4, colorfunc: atom => {
    const k = atom.resi - 1;
    return Math.abs(k - s) <= NEAR ? MATCH : near[k] ? TOUCHED : PLAIN;
  } } };
}

function drawMatch(slot, data, i, { j, turn }) {
  const { viewer } = slot, [p, s] = placeOf(data, j), chain = data.chains[p], { offsets, x, y } = paired(data, i, j);
  if (slot.chain !== p) {
    viewer.removeAllModels();
    viewer.addModel(chain.pdb, 'pdb');
    slot.chain = p;
  }
  viewer.removeAllShapes();
  viewer.setStyle({}, matchStyle(chain, s));
  viewer.addSphere({ center: point(chain.ca[s]), radius: 0.75, color: MATCH });
  if (x.length > 1) { // the picked residue and its neighbours, laid onto those of the match
    const [from, to] = [mean(x), mean(y)], back = conjugate(turn);
    const laid = x.map(v => plus(turned(back, plus(v, from, -1)), to));
    for (let k = 1; k < laid.length; k++) if (offsets[k] === offsets[k - 1] + 1) viewer.addCylinder({ start: point(laid[k - 1]), end: point(laid[k]), radius: 0.28, color: ACCENT, fromCap: 'round', toCap: 'round' });
    if (offsets.includes(0)) viewer.addSphere({ center: point(laid[offsets.indexOf(0)]), radius: 0.75, color: ACCENT });
  }
  slot.turn = turn;
  slot.centre = chain.ca[s].map(part => -part);
}

const ZOOM = 150 - 15 / Math.tan(Math.PI / 18); // 3Dmol's number for thirty Å across

function slotPanel(parent, report, k) {
  const node = add(parent, 'div', 'sa-slot'), box = add(node, 'div', 'sa-frame sa-slot-frame'), caption = add(node, 'button', 'sa-slot-name');
  caption.type = 'button';
  caption.addEventListener('click', () => report.pick(report.matches()[k]?.j));
  caption.addEventListener('keydown', event => event.stopPropagation());
  box.setAttribute('role', 'img');
  box.setAttribute('aria-label', `Structure around match ${k + 1}. Drag to turn all.`);
  box.addEventListener('wheel', event => { if (document.activeElement !== box && !event.ctrlKey) event.stopPropagation(); }, { capture: true });
  box.tabIndex = 0;
  box.addEventListener('pointerdown', () => box.focus({ preventScroll: true }));
  return { node, box, caption };
}

// The structures of the nearest residues, turned so that their surroundings lie like those of the
// picked one. Whichever is turned, the others follow.
function slotsPanel(parent, data, model, report, root) {
  const grid = add(parent, 'div', 'sa-slots'), notice = add(grid, 'div', 'sa-slots-notice'), slots = [];
  let pose = [0, 0, 0, 1], zoom = ZOOM, busy = false, library, gone = false, wanted = 0;
  const place = slot => slot.viewer.setView([...slot.centre, zoom, ...product(pose, slot.turn)]); // draws what was built before
  const placed = ({ turn }, view) => Math.abs(view[3] - zoom) < 1e-3 && Math.abs(product(view.slice(4), conjugate(product(pose, turn)))[3]) > 1 - 1e-9;
  const follow = slot => view => { // 3Dmol tells of every frame that is drawn, also of those drawn here
    if (busy || !slot.turn || slot.node.hidden || placed(slot, view)) return;
    busy = true;
    pose = product(view.slice(4), conjugate(slot.turn));
    zoom = view[3];
    for (const other of slots) if (other !== slot && !other.node.hidden) place(other);
    busy = false;
  };
  const make = k => {
    const slot = slotPanel(grid, report, k);
    slot.viewer = emptyViewer(library, slot.box);
    slot.viewer.enableFog(false);
    slot.viewer.setSlab(-12, 60); // what lies before the residue is cut off
    slot.viewer.setViewChangeCallback(follow(slot));
    slots.push(slot);
  };
  const draw = async (i, matches) => {
    const mine = ++wanted;
    delete root.dataset.matches;
    notice.textContent = i === null ? 'Pick a residue, and its nearest residues are shown here.' : matches.length ? '' : 'There is no residue to compare with.';
    if (i !== null && matches.length && !library) {
      await seen(grid);
      library = await viewerLibrary(model);
    }
    if (gone || mine !== wanted) return;
    busy = true;
    while (slots.length < Math.min(PANELS, matches.length)) make(slots.length);
    const ca = i === null ? null : data.chains[placeOf(data, i)[0]].ca[placeOf(data, i)[1]];
    pose = towardsEye(ca ?? [0, 0, 1]);
    slots.forEach((slot, k) => {
      slot.node.hidden = k >= matches.length;
      if (slot.node.hidden) return;
      drawMatch(slot, data, i, matches[k]);
      slot.caption.textContent = `${k + 1}  ${fullName(data, matches[k].j)} · ${cosine(matches[k].similarity)}`;
      place(slot);
      slot.viewer.render();
    });
    busy = false;
    root.dataset.matches = matches.slice(0, PANELS).map(({ j }) => placeOf(data, j).join(':')).join(' ');
  };
  return {
    slots,
    show: (i, matches) => draw(i, matches).catch(error => { notice.textContent = error.message ?? String(error); root.dataset.matches = 'none'; }),
    dispose() { gone = true; for (const { viewer, box } of slots) dispose(viewer, box); },
  };
}

function tablePanel(parent, data, report) {
  const table = add(parent, 'table', 'sa-table'), several = data.chains.length > 1;
  const columns = [['', ({ k }) => `${k + 1}`, 'sa-soft'], ...(several ? [['protein', ({ p }) => data.chains[p].title, '']] : []),
    ['residue', ({ p, s }) => data.chains[p].names[s], ''], ['structure', ({ p, s }) => data.chains[p].ss[s], ''],
    ...data.states.map((state, m) => [data.states.length > 1 ? state.name : 'cosine', ({ j, i, now, similarity }) => cosine(state === now ? similarity : data.modes[m].value(i * data.n + j)), 'sa-number-cell', state]),
    ['RMSD ±4, Å', ({ rmsd }) => Number.isNaN(rmsd) ? '–' : rmsd.toFixed(2), 'sa-number-cell']];
  const kind = ([, , name, state], now) => state && state !== now ? `${name} sa-soft` : name;
  const oneRow = (body, found) => {
    const row = add(body, 'tr', 'sa-match'), { i, j, now } = found;
    for (const column of columns) {
      const cell = add(row, 'td', kind(column, now), column[0] === 'residue' ? '' : column[1](found));
      if (column[0] !== 'residue') continue;
      const button = add(cell, 'button', 'sa-match-name', column[1](found)); // its click is the row's
      button.type = 'button';
      button.title = `Pick ${fullName(data, j)}`;
      button.addEventListener('keydown', event => event.stopPropagation()); // Enter would run the cell
      button.addEventListener('focus', () => report.hover([i, j]));
      button.addEventListener('blur', () => report.hover(null));
    }
    row.addEventListener('pointerenter', () => report.hover([i, j]));
    row.addEventListener('pointerleave', () => report.hover(null));
    row.addEventListener('click', () => report.pick(j));
  };
  return {
    show(i, matches, now) {
      table.replaceChildren();
      if (i === null) return;
      const head = add(add(table, 'thead', ''), 'tr', ''), body = add(table, 'tbody', '');
      for (const column of columns) add(head, 'th', kind(column, now), column[0]);
      matches.forEach((match, k) => { const [p, s] = placeOf(data, match.j); oneRow(body, { ...match, i, k, p, s, now }); });
    },
  };
}

// ---- in words ----

const cosine = value => Number.isNaN(value) ? 'unresolved' : value.toFixed(2).replace('-', '−');
const called = (data, state) => data.states.length > 1 ? `${state.name} ` : '';

function residueWords(data, i) {
  const [p, r] = placeOf(data, i), chain = data.chains[p], name = fullName(data, i);
  if (!chain.resolved[r]) return `${name} · unresolved, so without a structure state of its own`;
  const said = data.states.map(state => `${called(data, state)}${cosine(state.score[i])}, no. ${state.rank[i]} of ${data.found}`);
  return [name, chain.ss[r], `own pair: ${said.join('; ')}`].filter(Boolean).join(' · ');
}

function cellWords(data, i, j) {
  if (i === j) return residueWords(data, i);
  const said = data.states.map((state, k) => called(data, state) + cosine(data.modes[k].value(i * data.n + j)));
  return `sequence state of ${fullName(data, i)}, structure state of ${fullName(data, j)} · ${said.join('; ')}`;
}

// ---- the view ----

function proteinPanels(root, right, below, data, state, report, model) {
  const chain = { ...data.chains[state.chain], marks: [], paint: { colors: [], name: '' } }, start = data.starts[state.chain];
  const local = { pick: positions => report.pick(start + positions.at(-1)), hover: positions => report.hover(positions.length ? [start + positions[0], start + positions[0]] : null), key: report.key };
  const host = add(below, 'div', '');
  let shown = null, sequence;
  const paint = () => {
    if (shown === state.mode) return;
    const first = shown === null;
    shown = state.mode;
    const mode = data.modes[shown];
    chain.paint.colors = [...chain.sequence].map((_, r) => shadeOf(mode, mode.score(start + r)));
    host.replaceChildren();
    sequence = sequencePanel(host, chain, local);
    if (!first && scene.viewer) { styleViewer(scene.viewer.saModels, chain, {}); scene.viewer.render(); }
  };
  let scene;
  paint();
  scene = scenePanel(right, chain, local, model, root);
  return {
    scene,
    chain,
    show() {
      paint();
      const mine = i => i !== null && i !== undefined && i >= start && i < start + chain.sequence.length;
      const positions = { selection: mine(state.pick) ? [state.pick - start] : [], hover: [...new Set(state.hover ?? [])].filter(mine).map(i => i - start) };
      sequence.show(positions);
      scene.show(positions);
    },
    dispose() { scene.dispose(); host.remove(); right.querySelector('.sa-scene')?.remove(); },
  };
}

function makeReport(model, data, state, show) {
  const pick = i => {
    if (i === undefined) return;
    model.set('selection', i === null ? [] : placeOf(data, i));
    model.save_changes();
  };
  const hover = cell => {
    if (String(cell) === String(state.hover)) return;
    state.hover = cell;
    show();
  };
  const key = event => {
    const step = ARROWS[event.key];
    if (event.key === 'Escape') pick(null);
    else if (!step) return;
    else pick(clamp((state.pick ?? -1) + step[0] + step[1], data.n));
    event.preventDefault();
    event.stopPropagation();
  };
  const matches = () => {
    const { index, similarity, rmsd, turn } = data.modes[state.mode].state, res = [];
    for (let k = 0; state.pick !== null && k < data.k; k++) {
      const at = state.pick * data.k + k;
      if (index[at] >= 0) res.push({ j: index[at], similarity: similarity[at], rmsd: rmsd[at], turn: [...turn.slice(4 * at, 4 * at + 4)] });
    }
    return res;
  };
  return { pick, hover, key, matches };
}

function switches(root, data, state, model, show) {
  const bar = add(root, 'div', 'sa-switches'), res = [];
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  if (data.modes.length > 1) res.push(choice(bar, 'What is shown', data.modes.map(mode => mode.name), () => state.mode, k => set('shown', data.modes[k].name)));
  if (data.chains.length > 1) {
    res.push(choice(bar, 'Protein in 3D', data.chains.map(chain => chain.title), () => state.chain, p => { state.chain = p; show(); }));
    res.push(choice(bar, 'Map of', ['map of all', 'of this protein'], () => state.whole ? 0 : 1, k => { state.whole = !k; show(); }));
  }
  return res;
}

function build(model, el) {
  const data = prepare(model.get('data')), state = { mode: 0, chain: 0, pick: null, hover: null, whole: true };
  const { root, left, right } = layout(el, data);
  root.classList.add('sa-alignment');
  let waiting, protein, shownList = '', of = -1;
  const later = () => { waiting ??= requestAnimationFrame(() => { waiting = undefined; draw(); }); };
  const report = makeReport(model, data, state, later);
  const bars = switches(root, data, state, model, later);
  root.querySelector('.sa-head').after(root.querySelector('.sa-switches'));
  const grid = gridPanel(left, data, state, report), mapKey = add(left, 'div', 'sa-legend');
  const sceneKey = add(right, 'div', 'sa-legend'), readout = add(root, 'div', 'sa-readout');
  readout.setAttribute('aria-live', 'polite');
  const curveKey = add(root, 'div', 'sa-legend sa-curve-key'), curve = curvePanel(root, data, state, report);
  const below = add(root, 'div', ''), found = add(root, 'div', 'sa-found');
  const heading = add(found, 'div', 'sa-found-head'), pair = add(found, 'div', 'sa-found-pair');
  const listed = add(pair, 'div', 'sa-listed'), table = tablePanel(listed, data, report), listKey = add(listed, 'div', 'sa-legend');
  const slots = slotsPanel(pair, data, model, report, root);
  if (data.caption) add(root, 'div', 'sa-caption', data.caption);

  const legends = () => {
    const mode = data.modes[state.mode], scale = { name: mode.said, ramp: mode.ramp, low: cosine(mode.low), high: (mode.low < 0 && mode.low === -mode.high ? '+' : '') + cosine(mode.high) };
    for (const key of [mapKey, sceneKey]) key.replaceChildren();
    scaleKey(mapKey, scale);
    add(mapKey, 'span', 'sa-key sa-soft', 'rows: sequence states · columns: structure states');
    scaleKey(sceneKey, { ...scale, name: mode.name === 'change' ? 'change of own pair' : 'cosine of own pair' });
    curveLegend(curveKey, data, state);
  };
  const list = () => {
    const matches = report.matches(), mode = data.modes[state.mode];
    const key = `${state.pick} ${mode.state.name}`;
    if (key === shownList) return;
    shownList = key;
    for (const part of [heading, listKey]) part.replaceChildren();
    if (state.pick !== null) {
      add(heading, 'span', 'sa-title', `Structure states nearest to the sequence state of ${fullName(data, state.pick)}`);
      add(heading, 'span', 'sa-subtitle', data.apart ? `without the residue itself and ${data.apart} neighbours to either side` : 'without the residue itself');
      swatchKey(listKey, { name: 'picked residue ±4, laid on', color: ACCENT, shape: 'full' });
      swatchKey(listKey, { name: 'match ±4', color: MATCH, shape: 'full' });
      swatchKey(listKey, { name: 'Cβ within 8 Å of it', color: TOUCHED, shape: 'full' });
    }
    table.show(state.pick, matches, mode.state);
    slots.show(state.pick, matches);
  };
  const draw = () => {
    if (of !== state.chain) {
      protein?.dispose();
      of = state.chain;
      protein = proteinPanels(root, right, below, data, state, report, model);
      right.append(sceneKey);
    }
    for (const one of [...bars, grid, curve, protein]) one.show();
    if (root.dataset.mode !== data.modes[state.mode].name) legends();
    root.dataset.mode = data.modes[state.mode].name;
    readout.textContent = state.hover ? cellWords(data, ...state.hover) : state.pick !== null ? residueWords(data, state.pick) : data.hint;
    list();
  };
  const show = () => {
    const [p, r] = model.get('selection');
    state.pick = p === undefined ? null : data.starts[p] + r;
    if (p !== undefined && root.dataset.selection !== `${p},${r}`) state.chain = p;
    state.mode = Math.max(0, data.modes.findIndex(mode => mode.name === model.get('shown')));
    root.dataset.selection = model.get('selection').join();
    later();
  };
  show();
  draw();
  el.__saView = { get scene() { return protein.scene; }, get data() { return protein.chain; }, state, all: data, slots: slots.slots }; // for tests
  return { show, dispose: () => { cancelAnimationFrame(waiting); protein.dispose(); slots.dispose(); root.remove(); } };
}

const render = renderer(build, 'selection', 'shown');

export default { render };
