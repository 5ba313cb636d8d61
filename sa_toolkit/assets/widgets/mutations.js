// What every substitution does, as a heat map above the structure; common.js goes before.

const WIDE = 2 * SIZE + 16, ROW = 12, LEAST = 5; // px: the map, a letter's row, a residue's column
const signed = x => Number.isFinite(x) ? x.toFixed(2).replace('-', '\u2212') : 'unknown';

// Letters down, residues along; a long chain is scrolled, and only what is in sight is drawn
function heatPanel(parent, data, n, report, state) {
  const cell = Math.max(LEAST, WIDE / n), tall = ROW * 20, [harm, help] = [data.ramp[0], data.ramp.at(-1)].map(rgba);
  const box = add(parent, 'div', 'sa-heat'), names = add(box, 'div', 'sa-heat-letters');
  for (const letter of data.rows) add(names, 'span', '', letter);
  const scroll = add(box, 'div', 'sa-heat-scroll'), long = add(scroll, 'div', 'sa-heat-long');
  Object.assign(long.style, { width: `${cell * n}px`, height: `${tall + 16}px` });
  const [ground, over] = ['sa-heat-image', 'sa-heat-map'].map(name => {
    const [canvas, pen] = sheet(long, name, WIDE, tall);
    return { canvas, pen };
  });
  for (const [i, text] of data.ticks) add(long, 'span', 'sa-tick', text).style.left = `${(i + 0.5) * cell}px`;
  const left = () => Math.min(scroll.scrollLeft, cell * n - WIDE); // where the canvas begins, which is wider than a phone
  const draw = () => {
    const from = Math.floor(left() / cell), to = Math.min(n, Math.ceil((left() + WIDE) / cell)), { pen } = ground;
    pen.clearRect(0, 0, WIDE, tall);
    for (let i = from; i < to; i++)
      for (let k = 0; k < 20; k++) {
        const x = i * cell - left(), value = data.effects[i * 20 + k], own = data.rows[k] === data.sequence[i];
        const [r, g, b] = !Number.isFinite(value) ? [128, 128, 128] : value < 0 ? harm : help;
        pen.fillStyle = `rgba(${r},${g},${b},${Number.isFinite(value) ? Math.min(1, Math.abs(value) / data.limit) : 0.15})`;
        if (!own) pen.fillRect(x, k * ROW, cell, ROW);
        if (own) { pen.fillStyle = '#7c8996'; pen.fillRect(x + cell / 2 - 1.5, k * ROW + ROW / 2 - 1.5, 3, 3); }
      }
  };
  const drawPointer = (i, k, strength) => {
    const { pen } = over, x = i * cell - left();
    pen.globalAlpha = strength;
    pen.lineWidth = 1.75;
    pen.strokeStyle = ACCENT;
    pen.strokeRect(x, 0.9, cell, tall - 1.8);
    if (k >= 0) pen.strokeRect(x - 1, k * ROW - 1, cell + 2, ROW + 2);
    pen.globalAlpha = 1;
  };
  const at = event => [[event.offsetX + left(), cell, n], [event.offsetY, ROW, 20]].map(([px, size, most]) => Math.max(0, Math.min(most - 1, Math.floor(px / size))));
  const node = over.canvas;
  node.tabIndex = 0;
  node.setAttribute('role', 'application'); // a screen reader hands the arrow keys on
  node.setAttribute('aria-label', 'Effect of every substitution. Click one; left and right arrow change the residue, up and down the letter, Escape lets go.');
  let pointed = [0, 0];
  const point = event => report.point(...(pointed = at(event)));
  for (const name of ['pointermove', 'pointerdown']) node.addEventListener(name, point);
  node.addEventListener('pointerleave', () => report.point());
  node.addEventListener('click', () => { node.focus({ preventScroll: true }); report.choose(...pointed); });
  node.addEventListener('keydown', report.step);
  scroll.addEventListener('scroll', () => { draw(); show(state); });
  const show = ({ selection, hover, letter, under }) => {
    over.pen.clearRect(0, 0, WIDE, tall);
    if (selection.length) drawPointer(selection.at(-1), data.rows.indexOf(letter || ' '), 1);
    if (hover.length) drawPointer(hover.at(-1), under, 0.6);
  };
  const reveal = i => {
    const x = i * cell, wide = scroll.clientWidth || WIDE;
    if (x < scroll.scrollLeft || x + cell > scroll.scrollLeft + wide) scroll.scrollLeft = x - wide / 2;
  };
  draw();
  return { show, reveal };
}

// The twenty effects of one residue
function profilePanel(parent, data, report) {
  const title = add(parent, 'div', 'sa-profile-title'), rows = [...data.rows].map((letter, k) => {
    const row = add(parent, 'button', 'sa-profile-row');
    add(row, 'span', 'sa-profile-letter', letter);
    const bar = add(add(row, 'span', 'sa-profile-track'), 'span', 'sa-profile-bar'), value = add(row, 'span', 'sa-profile-value');
    row.type = 'button';
    row.addEventListener('click', () => report.letter(k));
    row.addEventListener('keydown', event => event.stopPropagation()); // Enter would run the cell
    return { row, bar, value };
  });
  const [harm, help] = [data.ramp[0], data.ramp.at(-1)];
  return {
    show({ selection, hover, letter }) {
      const i = hover.at(-1) ?? selection.at(-1);
      title.textContent = i === undefined ? 'Point at a residue to see its twenty effects.' : `${data.names[i]}: ${data.name} of each substitution`;
      rows.forEach(({ row, bar, value }, k) => {
        const x = i === undefined ? NaN : data.effects[i * 20 + k], own = i !== undefined && data.sequence[i] === data.rows[k];
        const share = Number.isFinite(x) && !own ? Math.max(-1, Math.min(1, x / data.limit)) : 0;
        Object.assign(bar.style, { left: `${50 + Math.min(0, share) * 50}%`, width: `${Math.abs(share) * 50}%`, background: share < 0 ? harm : help });
        value.textContent = i === undefined ? '' : own ? 'as it is' : signed(x);
        row.disabled = i === undefined || own;
        row.classList.toggle('sa-profile-chosen', letter === data.rows[k] && selection.at(-1) === i && i !== undefined);
      });
    },
  };
}

function said(data, { selection, hover, letter, under }) {
  const i = hover.at(-1) ?? selection.at(-1), k = hover.length ? under : data.rows.indexOf(letter || ' ');
  if (i === undefined) return 'Point at the map, the structure or the sequence; click to select a substitution.';
  const change = k >= 0 ? data.rows[k] === data.sequence[i] ? `${data.names[i]} as it is` : `${data.names[i]}${data.rows[k]} ${signed(data.effects[i * 20 + k])}` : data.names[i];
  return [change, data.paint.words?.[i], ...(data.tracks ?? []).map(track => track.words[i])].filter(Boolean).join(' · ');
}

function build(model, el) {
  const data = { ...model.get('data') }, n = data.sequence.length, state = { selection: [], hover: [], note: '', letter: '', under: -1 };
  data.effects = listOf(Float32Array, data.effects);
  const { root, left, right } = layout(el, data), panels = [];
  root.classList.add('sa-mutations');
  const show = () => {
    const before = state.selection.join();
    state.selection = model.get('selection');
    state.letter = model.get('letter');
    root.dataset.selection = state.selection.join();
    if (state.selection.length && before !== root.dataset.selection) heat.reveal(state.selection.at(-1));
    readout.textContent = state.note || said(data, state);
    for (const panel of panels) panel.show({ ...state, show: { sides: false, ligands: true } });
  };
  const base = reporter(model, n, state, show);
  const pick = (positions, letter = '') => { model.set('letter', letter); base.pick(positions); }; // whoever picks a residue alone lets go of the letter
  const key = (event, dimensions) => {
    if (event.key === 'Escape' || ARROWS[event.key]) model.set('letter', '');
    base.key(event, dimensions);
  };
  const hover = positions => { state.under = -1; base.hover(positions); };
  const report = { ...base, hover, key, pick: positions => pick(positions),
    point: (i, k) => { state.hover = i === undefined ? [] : [i]; state.under = k ?? -1; show(); },
    choose: (i, k) => pick([i], data.rows[k]),
    letter: k => state.selection.length && pick([state.selection.at(-1)], data.rows[k]),
    step: event => {
      const move = ARROWS[event.key], now = model.get('selection').at(-1) ?? 0;
      if (!move) return key(event, 1);
      pick([clamp(now + move[1], n)], data.rows[clamp(data.rows.indexOf(state.letter || data.rows[0]) + move[0], 20)]);
      event.preventDefault();
      event.stopPropagation();
    } };
  const heat = heatPanel(root, data, n, report, state), scene = scenePanel(right, data, report, model, root);
  root.querySelector('.sa-panels').before(root.lastElementChild);
  panels.push(heat, scene, profilePanel(left, data, report));
  sceneLegend(add(right, 'div', 'sa-legend'), data);
  scaleKey(add(left, 'div', 'sa-legend'), { name: data.name, ramp: data.ramp, low: signed(-data.limit), high: signed(data.limit) });
  const readout = add(root, 'div', 'sa-readout');
  readout.setAttribute('aria-live', 'polite');
  panels.push(sequencePanel(root, data, report));
  if (data.tracks?.length) trackLegend(add(root, 'div', 'sa-legend sa-track-legend'), data);
  if (data.caption) add(root, 'div', 'sa-caption', data.caption);
  show();
  el.__saView = { scene, state, data }; // for tests
  return { show, dispose: () => { scene.dispose(); root.remove(); } };
}

const render = renderer(build, 'selection', 'letter');

export default { render };
