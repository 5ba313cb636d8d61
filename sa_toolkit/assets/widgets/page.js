// A page without Jupyter: the few parts of a Jupyter model that `render` of linked.js uses.
const model = JSON.parse(document.getElementById('state').textContent);
const listeners = {};
model.data.matrix = Uint8Array.from(atob(model.data.matrix), letter => letter.charCodeAt(0)).buffer;
globalThis.saToolkit3Dmol = Promise.resolve(globalThis.$3Dmol);
globalThis.saToolkitModel = {
  get: name => model[name],
  set(name, value) {
    model[name] = value;
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  },
  on: (event, listener) => (listeners[event] ??= []).push(listener),
  off: () => {},
  save_changes: () => {},
};
render({ model: globalThis.saToolkitModel, el: document.getElementById('view') });
