// Addresses to pages, and what stays around them: departments, cart, the record of API calls.

import { make, plural, say } from './dom.js';

const main = document.getElementById('main');

let api, views, cart;
try {
  [api, views, { cart }] = await Promise.all([import('./api.js'), import('./views.js'), import('./cart.js')]);
} catch (error) {
  main.replaceChildren(make('div', { class: 'state', role: 'alert' }, make('p', {}, `The shop could not be opened: ${error.message}.`), make('button', { type: 'button', onclick: () => location.reload() }, 'Try again')));
  throw error;
}
const { calls, client, config, forgetShopper, shopData } = api;

let visit = 0;
let current; // the address of the page that is there, or on its way

async function render({ focus = true } = {}) {
  visit += 1;
  const mine = visit;
  const { pathname, search, searchParams } = new URL(location.href);
  current = pathname + search;
  const [, page = '', id = ''] = pathname.split('/').slice(1).map(decodeURIComponent);
  main.setAttribute('aria-busy', 'true');
  let view;
  try {
    view = await ({
      '': views.home,
      category: () => views.category(id, searchParams),
      product: () => views.product(id),
      search: () => views.search(searchParams),
      cart: () => views.basket({ go }),
      thanks: views.thanks,
    }[page] ?? views.missing)();
  } catch (error) {
    view = {
      title: 'Error',
      content: [make('h1', { tabindex: '-1' }, 'The page could not be shown'), make('div', { class: 'state', role: 'alert' }, make('p', {}, `${error.message}.`), make('button', { type: 'button', onclick: () => render() }, 'Try again'))],
    };
  }
  if (mine !== visit) return; // another page was asked for in the meantime
  for (const section of main.querySelectorAll('.pod')) section.leave?.();
  main.replaceChildren(...view.content.filter(Boolean));
  main.removeAttribute('aria-busy');
  document.title = view.title === config.name ? config.name : `${view.title} – ${config.name}`;
  for (const link of document.querySelectorAll('#departments a')) {
    if (link.pathname === location.pathname) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (page === 'search') document.getElementById('term').value = searchParams.get('term') ?? '';
  if (focus) {
    main.querySelector('h1')?.focus({ preventScroll: true });
  }
}

function go(address, { replace = false, keepFocus = false } = {}) {
  if (replace) history.replaceState(null, '', address);
  else {
    history.pushState(null, '', address);
    scrollTo(0, 0);
  }
  return render({ focus: !keepFocus });
}

document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href]');
  if (!link || event.defaultPrevented || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || link.target) return;
  if (link.origin !== location.origin || !link.pathname.startsWith('/shop/') || link.hash) return;
  event.preventDefault();
  go(link.href);
});
addEventListener('popstate', () => {
  // Leaving for a place in the same page, as the skip link does, is no reason to make it again.
  if (location.pathname + location.search !== current) render();
});

document.getElementById('search').addEventListener('submit', (event) => {
  event.preventDefault();
  go(`/shop/search?term=${encodeURIComponent(new FormData(event.target).get('term'))}`);
});

document.getElementById('new-shopper').addEventListener('click', () => {
  forgetShopper();
  location.assign('/shop/');
});

function showCart() {
  const count = cart.count();
  document.getElementById('cart-count').textContent = count;
  document.getElementById('cart-words').textContent = count ? `, ${plural(count, 'piece')}` : ', empty';
}
cart.addEventListener('change', showCart);
addEventListener('storage', showCart);
showCart();

// What was tracked is known a moment later: a list for the shopper on this page follows.
let refresh;
client.tracker.on('success', ({ url }) => {
  if (!/recommendation_result_click|item_detail_load|conversion|purchase/.test(url)) return;
  clearTimeout(refresh);
  refresh = setTimeout(() => document.querySelector(`[data-pod="${config.pods.forYou}"]`)?.reload?.(), 300);
});
client.tracker.on('error', ({ message }) => say(`An event could not be tracked: ${message}`));

const toggle = document.getElementById('calls-toggle');
const body = document.getElementById('calls-body');
toggle.addEventListener('click', () => {
  const open = toggle.getAttribute('aria-expanded') !== 'true';
  toggle.setAttribute('aria-expanded', String(open));
  body.hidden = !open;
});
addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !body.hidden) {
    toggle.click();
    toggle.focus();
  }
});

function callEntry(call) {
  const parameters = [...call.url.searchParams].filter(([name]) => !['c', '_dt'].includes(name));
  let sent = call.body;
  try {
    sent = JSON.stringify(JSON.parse(call.body), null, 1);
  } catch { /* shown as it is */ }
  const good = typeof call.status === 'number' && call.status < 400;
  return make(
    'li',
    {},
    make(
      'details',
      {},
      make(
        'summary',
        {},
        make('span', { class: 'call-method' }, call.method),
        make('span', { class: 'call-path' }, call.url.pathname),
        make('span', { class: `call-status ${call.status === 'sent' || good ? '' : 'bad'}` }, String(call.status)),
        call.milliseconds !== undefined && make('span', { class: 'quiet' }, `${call.milliseconds.toFixed(0)} ms`),
        call.summary && make('span', { class: 'call-summary' }, call.summary),
      ),
      make('dl', {}, parameters.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)])),
      call.body && make('pre', {}, sent),
    ),
  );
}

const shown = new Map();
function showCalls() {
  document.getElementById('calls-count').textContent = calls.total;
  const list = document.getElementById('calls-list');
  for (const call of shown.keys()) if (!calls.list.includes(call)) shown.delete(call);
  list.replaceChildren(
    ...calls.list.map((call) => {
      const entry = callEntry(call);
      entry.firstChild.open = shown.get(call)?.firstChild.open ?? false;
      shown.set(call, entry);
      return entry;
    }),
  );
}
calls.addEventListener('change', showCalls);
showCalls();

document.getElementById('shop-name').textContent = config.name;
render({ focus: false });
try {
  const departments = await shopData('groups');
  document.querySelector('.departments').hidden = departments.length === 0;
  document.getElementById('departments').replaceChildren(
    ...departments.map((group) => make('li', {}, make('a', { href: `/shop/category/${encodeURIComponent(group.id)}` }, group.name))),
  );
} catch {
  document.getElementById('departments').replaceChildren(make('li', { class: 'quiet' }, 'The departments could not be loaded.'));
}
