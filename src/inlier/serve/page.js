// Drop, paste and choose pictures; zoom; small messages. All else is the server's.
const toast = (words) => { const box = document.querySelector('.toast'); if (!box) return; box.textContent = words;
  clearTimeout(toast.timer); toast.timer = setTimeout(() => { box.textContent = ''; }, 6000); };
window.gone = (image) => { const note = document.createElement('p'); note.className = 'quiet';
  note.textContent = document.body.dataset.gone || ''; image.replaceWith(note); };
const send = async (files) => {
  for (const file of files) {
    const part = encodeURIComponent((file.name || '').slice(0, 200).replace(/[\x00-\x1f]/g, ''));
    const answer = await fetch(`/v1/stations/${document.body.dataset.station}/inspect?part=${part}`, { method: 'POST', body: file });
    if (!answer.ok) { const told = await answer.json().catch(() => ({})); toast(told.error || answer.statusText); }
  }
};
window.choose = () => { const input = document.createElement('input'); input.type = 'file'; input.multiple = true;
  input.accept = 'image/*'; input.onchange = () => send(input.files); input.click(); };
addEventListener('dragover', (e) => { e.preventDefault(); document.body.classList.add('dropping'); });
addEventListener('dragleave', (e) => { if (!e.relatedTarget) document.body.classList.remove('dropping'); });
addEventListener('drop', (e) => { e.preventDefault(); document.body.classList.remove('dropping'); send(e.dataTransfer.files); });
addEventListener('paste', (e) => { const files = [...(e.clipboardData?.files || [])]; if (files.length) { e.preventDefault(); send(files); } });
const zoom = { scale: 1, x: 0, y: 0 };
const place = () => document.querySelectorAll('.stage .layers').forEach((layers) => {
  layers.style.transform = zoom.scale === 1 ? '' : `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`; });
addEventListener('wheel', (e) => {
  const layers = e.target.closest?.('.stage .view')?.querySelector('.layers'); if (!layers) return;
  e.preventDefault();
  const box = layers.getBoundingClientRect(), before = zoom.scale;
  zoom.scale = Math.min(20, Math.max(1, before * Math.exp(-e.deltaY / 400)));
  const factor = zoom.scale / before;
  zoom.x += (e.clientX - box.left) * (1 - factor); zoom.y += (e.clientY - box.top) * (1 - factor);
  if (zoom.scale === 1) zoom.x = zoom.y = 0;
  place();
}, { passive: false });
addEventListener('pointermove', (e) => { if (e.buttons === 1 && zoom.scale > 1 && e.target.closest?.('.stage .view')) {
  zoom.x += e.movementX; zoom.y += e.movementY; place(); } });
addEventListener('dblclick', (e) => { if (e.target.closest?.('.stage .view')) { zoom.scale = 1; zoom.x = zoom.y = 0; place(); } });
addEventListener('dragstart', (e) => { if (e.target.closest?.('.view')) e.preventDefault(); });
const remember = (name, value) => { document.cookie = `${name}=${value}; path=/; max-age=31536000; SameSite=Strict`; };
window.remember = remember;
