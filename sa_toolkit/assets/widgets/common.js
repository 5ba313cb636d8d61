// What all views share: colours, legends, the sequence, the structure, and who tells whom.
//
// A view has one state: what is selected, which Python shares, and what is hovered, which stays
// here. Panels draw that state and report `pick` and `hover`; no panel knows another one.
// Positions are 0-based everywhere but in the structure, whose residues are numbered 1..L.
// Each view's own file follows this one in the same module.

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

function sceneLegend(parent, data) {
  if (data.paint.name) scaleKey(parent, data.paint);
  if (data.paint.missing) swatchKey(parent, { name: 'no value', color: data.paint.missing, shape: 'full' });
  for (const mark of data.marks) if (mark.line) swatchKey(parent, { ...mark, shape: mark.line });
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

// ---- a view ----

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
