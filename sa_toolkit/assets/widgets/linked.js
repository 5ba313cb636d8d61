// A contact map, a structure and a sequence that point at the same residues.
//
// A view has one state: what is selected, which Python shares, and what is hovered, which stays
// here. Panels draw that state and report `pick` and `hover`; no panel knows another one.
// Positions are 0-based everywhere but in the structure, whose residues are numbered 1..L.

const SIZE = 376; // px, map and structure alike
const ACCENT = '#d6278b'; // what is selected
const HOVER = '#ee85bd'; // what is hovered; no shape is translucent, for the page shows through behind it
const LABEL = { fontSize: 13, fontColor: 'white', backgroundColor: '#27313d', backgroundOpacity: 0.85, inFront: true };
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const NO_WEBGL = 'This browser offers no WebGL, so the structure is not drawn; the map and the sequence work.';

function add(parent, tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// ---- colours ----

// '#rrggbb' or '#rrggbbaa' as four numbers
function rgba(color) {
  const hex = color.length < 9 ? color + 'ff' : color;
  return [1, 3, 5, 7].map(at => parseInt(hex.slice(at, at + 2), 16));
}

// 256 colours between evenly spaced stops; colour 0 stands for a missing value
function rampTable(stops) {
  const ends = stops.map(rgba), table = [[0, 0, 0, 0]];
  for (let value = 1; value < 256; value++) {
    const at = (value - 1) / 254 * (ends.length - 1), k = Math.min(Math.floor(at), ends.length - 2);
    table.push(ends[k].map((low, c) => low + (ends[k + 1][c] - low) * (at - k)));
  }
  return table;
}

function gradient(stops) {
  const colors = stops.map(rgba).map(([r, g, b, a]) => `rgba(${r},${g},${b},${a / 255})`);
  return `linear-gradient(to right, ${colors.join()})`;
}

// ---- legends ----

function cornerKey(parent, name, corner) {
  const key = add(parent, 'span', 'sa-key');
  if (corner) add(key, 'span', `sa-corner sa-${corner}`);
  add(key, 'span', '', name);
  return key;
}

function scaleKey(parent, { name, ramp, low, high }, corner) {
  const key = cornerKey(parent, name, corner);
  add(key, 'span', 'sa-end', low);
  add(key, 'span', 'sa-scale').style.backgroundImage = gradient(ramp);
  add(key, 'span', 'sa-end', high);
}

function swatchKey(parent, { name, color, shape }, corner) {
  const swatch = document.createElement('span');
  swatch.className = `sa-swatch sa-${shape}`;
  swatch.style.color = color;
  cornerKey(parent, name, corner).lastChild.before(swatch);
}

const scaleOf = ({ ramp, low, high }) => JSON.stringify([ramp, low, high]);

function mapLegend(parent, data) {
  for (const [k, layer] of data.layers.entries()) {
    const corner = layer.side === 'both' ? null : layer.side, next = data.layers[k + 1];
    if (layer.words) swatchKey(parent, { name: layer.name, color: layer.ramp.at(-1), shape: 'full' }, corner);
    else if (next && scaleOf(next) === scaleOf(layer)) cornerKey(parent, layer.name, corner); // the next one shows the scale
    else scaleKey(parent, layer, corner);
  }
  for (const mark of data.marks) swatchKey(parent, { ...mark, shape: mark.filled ? 'full' : 'open' });
}

function sceneLegend(parent, data) {
  if (data.paint.name) scaleKey(parent, data.paint);
  if (data.paint.missing) swatchKey(parent, { name: 'no value', color: data.paint.missing, shape: 'full' });
  for (const mark of data.marks) if (mark.line) swatchKey(parent, { ...mark, shape: mark.line });
}

// ---- contact map ----

const upperOf = ([i, j]) => [Math.min(i, j), Math.max(i, j)];
const cellsOf = { upper: pair => [upperOf(pair)], lower: pair => [upperOf(pair).reverse()],
  both: pair => [upperOf(pair), upperOf(pair).reverse()] };
const layerAt = (data, i, j) => data.layers.find(layer => layer.side === 'both' || layer.side === (i < j ? 'upper' : 'lower'));

function mapImage(data, n) {
  const tables = new Map(data.layers.map(layer => [layer, rampTable(layer.ramp)]));
  const upper = tables.get(layerAt(data, 0, 1)), lower = tables.get(layerAt(data, 1, 0));
  const image = new ImageData(n, n);
  for (let i = 0, k = 0; i < n; i++)
    for (let j = 0; j < n; j++, k++) image.data.set((i < j ? upper : lower)[data.values[k]], 4 * k);
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = n;
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

function sharpCanvas(parent, className) {
  const canvas = add(parent, 'canvas', className), zoom = Math.max(1, window.devicePixelRatio);
  canvas.width = canvas.height = Math.round(SIZE * zoom);
  const pen = canvas.getContext('2d');
  pen.scale(canvas.width / SIZE, canvas.width / SIZE);
  return [canvas, pen];
}

function drawMarks(pen, data, cell) {
  const side = Math.max(cell, 4);
  for (const { pairs, color, filled, side: where } of data.marks)
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
  const cell = SIZE / n, frame = add(parent, 'div', 'sa-frame sa-map-frame');
  const [, ground] = sharpCanvas(frame, 'sa-map-image'), [over, pen] = sharpCanvas(frame, 'sa-map');
  for (const [i, text] of data.ticks) {
    add(frame, 'span', 'sa-tick sa-tick-left', text).style.top = `${(i + 0.5) * cell}px`;
    add(frame, 'span', 'sa-tick sa-tick-bottom', text).style.left = `${(i + 0.5) * cell}px`;
  }
  ground.imageSmoothingEnabled = n > SIZE;
  ground.drawImage(mapImage(data, n), 0, 0, SIZE, SIZE);
  drawMarks(ground, data, cell);

  const at = event => [event.offsetY, event.offsetX].map(px => Math.max(0, Math.min(n - 1, Math.floor(px / cell))));
  over.tabIndex = 0;
  over.setAttribute('role', 'img');
  over.setAttribute('aria-label', 'Contact map. Click a pair of residues; arrow keys move it.');
  // A click comes at whole pixels, which can be another pair than the one pointed at.
  let pointed = [0, 0];
  const point = event => report.hover(pointed = at(event));
  over.addEventListener('pointermove', point);
  over.addEventListener('pointerdown', point);
  over.addEventListener('pointerleave', () => report.hover([]));
  over.addEventListener('click', () => { over.focus({ preventScroll: true }); report.pick(pointed); });
  over.addEventListener('keydown', event => report.key(event, 2));
  return {
    show({ selection, hover }) {
      pen.clearRect(0, 0, SIZE, SIZE);
      drawPointer(pen, selection, cell, 1);
      drawPointer(pen, hover, cell, 0.6);
    },
  };
}

// ---- sequence ----

function sequencePanel(parent, data, report) {
  const track = add(parent, 'div', 'sa-sequence'), letters = [];
  track.tabIndex = 0;
  track.setAttribute('role', 'group');
  track.setAttribute('aria-label', 'Sequence. Click a residue; shift-click a second one; arrow keys move.');
  let block;
  for (const [i, letter] of [...data.sequence].entries()) {
    if (i % 10 === 0) {
      const group = add(track, 'div', 'sa-block');
      add(group, 'div', 'sa-number', data.numbers[i]);
      block = add(group, 'div', 'sa-letters');
    }
    const node = add(block, 'span', data.resolved[i] ? 'sa-letter' : 'sa-letter sa-missing', letter);
    node.dataset.position = i;
    if (data.resolved[i]) node.style.borderBottomColor = data.paint.colors[i];
    letters.push(node);
  }
  const at = event => event.target.dataset?.position;
  track.addEventListener('pointermove', event => report.hover(at(event) === undefined ? [] : [Number(at(event))]));
  track.addEventListener('pointerleave', () => report.hover([]));
  track.addEventListener('click', event => at(event) !== undefined && report.pick([Number(at(event))], event.shiftKey));
  track.addEventListener('keydown', event => report.key(event, 1));

  const marked = { selected: [], hovered: [] };
  const mark = (name, positions) => {
    for (const i of marked[name]) letters[i].classList.remove(`sa-${name}`);
    for (const i of positions) letters[i].classList.add(`sa-${name}`);
    marked[name] = positions;
  };
  const reveal = node => { // scrolls the track alone; scrollIntoView would move the page as well
    const above = node.offsetTop - track.scrollTop;
    if (above < 0 || above > track.clientHeight - node.offsetHeight) track.scrollTop = node.offsetTop - track.clientHeight / 2;
  };
  return {
    show({ selection, hover }) {
      if (selection.length && selection.join() !== marked.selected.join()) reveal(letters[selection[0]]);
      mark('selected', selection);
      mark('hovered', hover);
    },
  };
}

// ---- structure ----

// 3Dmol comes from Python, once for all views of a page. Its build would hand itself to a page's
// `define` or spill into its globals; wrapped into a module it does neither.
function viewerLibrary(model) {
  return globalThis.saToolkit3Dmol ??= (async () => {
    const holder = await model.widget_manager.get_model(model.get('_library').replace('IPY_MODEL_', ''));
    const parts = ['const module = { exports: {} }, exports = module.exports, define = undefined;\n',
      holder.get('source'), '\nexport default module.exports;'];
    const url = URL.createObjectURL(new Blob(parts, { type: 'text/javascript' }));
    try {
      return (await import(url)).default;
    } finally {
      URL.revokeObjectURL(url);
    }
  })().catch(error => {
    delete globalThis.saToolkit3Dmol; // so that the next view tries again
    throw error;
  });
}

// Nothing is built for a view that is never scrolled to.
function seen(node) {
  return new Promise(resolve => {
    const watch = new IntersectionObserver(entries => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      watch.disconnect();
      resolve();
    });
    watch.observe(node);
  });
}

// WebGL is not asked for beforehand: a context made only to see whether one can be made takes a second without a GPU.
function emptyViewer(library, box) {
  try {
    return library.createViewer(box, { backgroundAlpha: 0, hoverDuration: 60, cartoonQuality: 8 });
  } catch {
    throw new Error(NO_WEBGL);
  }
}

function makeViewer(library, box, data, report) {
  const viewer = emptyViewer(library, box), position = atom => atom.resi - 1;
  viewer.addModel(data.pdb, 'pdb');
  viewer.setStyle({}, { cartoon: { colorfunc: atom => data.paint.colors[position(atom)], arrows: true, thickness: 0.5 } });
  viewer.setClickable({}, true, (atom, _, event) => report.pick([position(atom)], event?.shiftKey));
  viewer.setHoverable({}, true, atom => report.hover([position(atom)]), () => report.hover([]));
  for (const mark of data.marks)
    for (const [i, j] of mark.line ? mark.pairs : [])
      if (data.cb[i] && data.cb[j]) viewer.addCylinder(line(data, i, j, { color: mark.color, radius: 0.2, dashed: mark.line === 'dashed' }));
  viewer.zoomTo();
  viewer.zoom(1.1); // it leaves room for a sphere around everything
  viewer.render();
  return viewer;
}

const point = ([x, y, z]) => ({ x, y, z });
const line = (data, i, j, look) => ({ start: point(data.cb[i]), end: point(data.cb[j]), dashLength: 0.5, gapLength: 0.35, ...look });

// Residues are highlighted by shapes, so that the cartoon is never built again.
function drawSelection(viewer, data, selection) {
  const there = selection.filter(i => data.cb[i]);
  const shapes = there.map(i => viewer.addSphere({ center: point(data.cb[i]), radius: 1.15, color: ACCENT }));
  const labels = there.map(i => viewer.addLabel(data.names[i], { ...LABEL, position: point(data.cb[i]), alignment: 'bottomLeft', screenOffset: { x: 7, y: -5 } }));
  if (there.length === 2) shapes.push(viewer.addCylinder(line(data, ...there, { color: ACCENT, radius: 0.2, dashed: true })));
  return { there, clear: () => { shapes.forEach(s => viewer.removeShape(s)); labels.forEach(l => viewer.removeLabel(l)); } };
}

function drawHover(viewer, data, hover) {
  const shapes = hover.filter(i => data.cb[i])
    .map(i => viewer.addSphere({ center: point(data.cb[i]), radius: 1.2, color: HOVER }));
  return { clear: () => shapes.forEach(s => viewer.removeShape(s)) };
}

// Where the browser has an OffscreenCanvas all viewers of a page share one WebGL context, which must
// outlive them; elsewhere each canvas has its own, and browsers allow about sixteen.
function dispose(viewer, box) {
  const canvas = box.querySelector('canvas');
  box.remove(); // first, or 3Dmol would revive the context it is about to lose
  viewer.divwatcher?.disconnect();
  viewer.intwatcher?.disconnect();
  viewer.clear();
  delete canvas?._3dmol_viewer;
  canvas?.getContext('webgl2')?.getExtension('WEBGL_lose_context')?.loseContext();
}

function scenePanel(parent, data, report, model, root) {
  const box = add(parent, 'div', 'sa-frame sa-scene');
  const notice = add(box, 'div', 'sa-notice', 'Loading the structure …');
  const drawn = {};
  let viewer, state, waiting, gone = false;
  box.tabIndex = 0;
  box.setAttribute('role', 'img');
  box.setAttribute('aria-label', 'Structure. Drag to turn, click a residue; after a click the wheel zooms.');
  box.addEventListener('pointerdown', () => box.focus({ preventScroll: true }));
  // A wheel turned over a structure means to scroll the page, unless one works with the structure.
  box.addEventListener('wheel', event => { if (document.activeElement !== box && !event.ctrlKey) event.stopPropagation(); }, { capture: true });

  const draw = () => {
    waiting = undefined;
    if (!viewer || gone) return;
    const { selection } = state, hover = state.hover.filter(i => !selection.includes(i));
    for (const [name, make, positions] of [['selection', drawSelection, selection], ['hover', drawHover, hover]]) {
      if (drawn[name]?.of === positions.join()) continue;
      drawn[name]?.clear();
      drawn[name] = { ...make(viewer, data, positions), of: positions.join() };
    }
    viewer.render();
    root.dataset.highlighted = drawn.selection.there.join();
  };
  const start = async () => {
    await seen(box);
    if (gone) return;
    const library = await viewerLibrary(model);
    if (gone) return;
    viewer = makeViewer(library, box, data, report);
    notice.remove();
    root.dataset.ready = 'structure';
    draw();
  };
  start().catch(error => { notice.textContent = error.message ?? String(error); root.dataset.ready = 'map'; });
  return {
    get viewer() { return viewer; },
    show(next) { state = next; waiting ??= requestAnimationFrame(draw); },
    dispose() { gone = true; if (viewer) dispose(viewer, box); },
  };
}

// ---- what is pointed at, in words ----

function valueAt(data, n, i, j) {
  const layer = layerAt(data, i, j), value = data.values[i * n + j];
  if (!value) return `${layer.name} unknown`;
  if (layer.words) return layer.words[value > 127 ? 1 : 0];
  return `${layer.name} ${(layer.low + (value - 1) / 254 * (layer.high - layer.low)).toFixed(2)}`;
}

function words(data, n, positions) {
  if (!positions.length) return '';
  const name = i => data.names[i] + (data.resolved[i] ? '' : ' (unresolved)');
  const [i, j] = [positions[0], positions.at(-1)];
  if (i === j) return [name(i), data.paint.words?.[i]].filter(Boolean).join(' · ');
  const parts = [`${name(i)} – ${name(j)}`];
  if (data.cb[i] && data.cb[j]) parts.push(`Cβ–Cβ ${Math.hypot(...data.cb[i].map((x, k) => x - data.cb[j][k])).toFixed(1)} Å`);
  const cells = data.layers.length > 1 ? cellsOf.both([i, j]) : [[i, j]];
  return parts.concat(cells.map(cell => valueAt(data, n, ...cell))).join(' · ');
}

// ---- the view ----

function reporter(model, n, state, show) {
  const pick = (positions, extend = false) => {
    const first = model.get('selection')[0];
    const next = extend && first !== undefined ? [first, ...positions] : positions;
    model.set('selection', [...new Set(next)]);
    model.save_changes();
  };
  const hover = positions => {
    if (positions.join() === state.hover.join()) return;
    state.hover = positions;
    show();
  };
  const key = (event, dimensions) => {
    const step = ARROWS[event.key], now = model.get('selection');
    if (event.key === 'Escape') pick([]);
    else if (!step) return;
    else if (dimensions === 1) pick([clamp((now.at(-1) ?? -1) + step[0] + step[1], n)]);
    else pick([now[0] ?? 0, now.at(-1) ?? 0].map((at, k) => clamp(at + step[k], n)));
    event.preventDefault();
    event.stopPropagation();
  };
  return { pick, hover, key };
}

const clamp = (at, n) => Math.max(0, Math.min(n - 1, at));

function layout(el, data) {
  const root = add(el, 'div', 'sa-view'); // Jupyter styles `el` itself, so it stays bare
  root.dataset.lmSuppressShortcuts = 'true';
  root.style.setProperty('--sa-size', `${SIZE}px`);
  root.style.setProperty('--sa-accent', ACCENT);
  const head = add(root, 'div', 'sa-head');
  add(head, 'span', 'sa-title', data.title);
  add(head, 'span', 'sa-subtitle', data.subtitle);
  const panels = add(root, 'div', 'sa-panels');
  const [left, right] = [add(panels, 'div', 'sa-panel sa-left'), add(panels, 'div', 'sa-panel')];
  return { root, left, right };
}

function build(model, el) {
  const data = { ...model.get('data') }, n = data.sequence.length, state = { selection: [], hover: [] };
  const bytes = data.matrix;
  data.values = new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, n * n);
  const { root, left, right } = layout(el, data), panels = [];
  const show = () => {
    state.selection = model.get('selection');
    root.dataset.selection = state.selection.join();
    readout.textContent = words(data, n, state.hover.length ? state.hover : state.selection) || data.hint;
    for (const panel of panels) panel.show({ ...state });
  };
  const report = reporter(model, n, state, show);
  const scene = scenePanel(right, data, report, model, root);
  panels.push(mapPanel(left, data, n, report), scene);
  mapLegend(add(left, 'div', 'sa-legend'), data);
  sceneLegend(add(right, 'div', 'sa-legend'), data);
  const readout = add(root, 'div', 'sa-readout');
  readout.setAttribute('aria-live', 'polite');
  panels.push(sequencePanel(root, data, report));
  if (data.caption) add(root, 'div', 'sa-caption', data.caption);
  show();
  el.__saView = { scene, state, data }; // for tests
  return { show, dispose: () => { scene.dispose(); root.remove(); } };
}

function render({ model, el }) {
  let view = build(model, el);
  const show = () => view.show();
  const rebuild = () => { view.dispose(); view = build(model, el); };
  model.on('change:selection', show);
  model.on('change:data', rebuild);
  return () => {
    model.off('change:selection', show);
    model.off('change:data', rebuild);
    view.dispose();
  };
}

export default { render };
