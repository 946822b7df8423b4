// Of the page that `rawsgi compare --html` writes: it filters, and the page is whole without it.
const rows = [...document.querySelectorAll('details.case')];
const filter = document.querySelector('.filter');
const find = document.getElementById('find');
const corpus = document.getElementById('corpus');
const server = document.getElementById('server');
const boxes = [...filter.querySelectorAll('input[type=checkbox]')];
const words = text => (text || '').split(' ');
function show() {
  const text = find.value.trim().toLowerCase();
  const wanted = boxes.filter(box => box.checked).map(box => box.value);
  let shown = 0;
  for (const row of rows) {
    const data = row.dataset;
    row.hidden = !(data.text.includes(text)
      && (!corpus.value || data.corpus === corpus.value)
      && (!server.value || words(data.servers).includes(server.value))
      && wanted.every(kind => words(data.kinds).includes(kind)));
    shown += !row.hidden;
  }
  for (const group of document.querySelectorAll('section.group'))
    group.hidden = !group.querySelector('details.case:not([hidden])');
  document.getElementById('shown').textContent = shown + ' of ' + rows.length;
  document.getElementById('nothing').hidden = shown > 0;
}
filter.hidden = false;
filter.addEventListener('input', show);
filter.addEventListener('change', show);
show();
