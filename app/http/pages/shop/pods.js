// A pod: one list of recommendations, asked for and tracked by the client.

import { client, config, productOf } from './api.js';
import { cart } from './cart.js';
import { make, plural } from './dom.js';
import { tile } from './tiles.js';

const money = new Intl.NumberFormat(undefined, { style: 'currency', currency: config.currency });
export const price = (amount) => (amount === undefined || amount === null ? 'no price' : money.format(amount));

const REASONS = {
  popular: 'sells most',
  trending: 'more asked for than before',
  new: 'new here',
  from_history: 'from what you did here',
};
const reasonWords = (reason) => REASONS[reason] ?? reason?.replaceAll('_', ' ') ?? '';

export function addToCart(product) {
  cart.add(product);
  client.tracker.trackConversion(undefined, {
    itemId: product.id,
    itemName: product.name,
    revenue: product.price ?? 0,
    type: 'add_to_cart',
  });
}

/** One product as a card. `opened` is called before its page opens. */
export function card(product, { opened = () => {}, fresh = false } = {}) {
  return make(
    'li',
    { class: 'card', 'data-item': product.id },
    make(
      'a',
      { href: `/shop/product/${encodeURIComponent(product.id)}`, class: 'card-link', onclick: opened },
      tile(product),
      make('span', { class: 'card-name' }, product.name),
    ),
    make('span', { class: 'card-about' }, [product.brand, product.size].filter(Boolean).join(' · ')),
    make(
      'span',
      { class: 'card-foot' },
      make('span', { class: 'price' }, price(product.price)),
      make(
        'button',
        { type: 'button', class: 'add', 'aria-label': `Add ${product.name} to the cart`, onclick: () => addToCart(product) },
        'Add',
      ),
    ),
    product.strategy &&
      make(
        'span',
        { class: 'why' },
        fresh && make('span', { class: 'fresh' }, 'new'),
        make('span', { class: 'strategy' }, make('span', { class: 'visually-hidden' }, 'Strategy: '), product.strategy),
        product.reason && make('span', { class: 'reason' }, reasonWords(product.reason)),
      ),
  );
}

function waiting(count) {
  return make(
    'ul',
    { class: 'cards', 'aria-hidden': 'true' },
    Array.from({ length: count }, () => make('li', { class: 'card ghost' }, make('span', { class: 'tile' }), make('span'), make('span'))),
  );
}

/**
 * A section that shows a pod.
 *
 * @param {string} id - the pod
 * @param {object} options - `title`, `about`, `parameters` (for getRecommendations), `empty` (what to
 *   say when there is nothing), `remember` (mark what was not there the last time)
 */
export function pod(id, { title, about, parameters = {}, empty, remember = false }) {
  const heading = `pod-${id}`;
  const body = make('div', { class: 'pod-body', 'aria-live': 'off' });
  const note = make('p', { class: 'pod-note', role: 'status' });
  const section = make(
    'section',
    { class: 'pod', 'aria-labelledby': heading, 'data-pod': id },
    make('header', {}, make('h2', { id: heading }, title), about && make('p', { class: 'quiet' }, about), note),
    body,
  );
  let watcher;

  async function load({ quietly = false } = {}) {
    watcher?.disconnect();
    section.setAttribute('aria-busy', 'true');
    if (!quietly) body.replaceChildren(waiting(parameters.numResults ?? 6));
    try {
      const json = await client.recommendations.getRecommendations(id, parameters);
      show(json);
    } catch (error) {
      note.textContent = '';
      body.replaceChildren(
        make(
          'div',
          { class: 'state', role: 'alert' },
          make('p', {}, `This list could not be loaded: ${error.message}.`),
          make('button', { type: 'button', onclick: () => load() }, 'Try again'),
        ),
      );
    }
    section.removeAttribute('aria-busy');
  }

  function show(json) {
    const products = json.response.results.map(productOf);
    section.dataset.result = json.result_id;
    if (!products.length) {
      note.textContent = '';
      body.replaceChildren(make('p', { class: 'state' }, empty ?? 'Nothing to show here yet.'));
      return;
    }
    const name = `shop-seen-${id}`;
    const before = remember ? JSON.parse(sessionStorage.getItem(name) ?? 'null') : null;
    const fresh = new Set(before ? products.map((each) => each.id).filter((each) => !before.includes(each)) : []);
    if (remember) sessionStorage.setItem(name, JSON.stringify(products.map((each) => each.id)));
    const degraded = json.response.degraded?.length ? `Served without: ${json.response.degraded.join(', ')}. ` : '';
    const changed = fresh.size ? `${plural(fresh.size, 'product')} changed with what you did.` : '';
    note.textContent = degraded + changed;
    const common = (position) => ({
      podId: id,
      resultId: json.result_id,
      resultCount: products.length,
      resultPage: 1,
      numResultsPerPage: products.length,
      resultPositionOnPage: position,
    });
    body.replaceChildren(
      make(
        'ul',
        { class: 'cards' },
        products.map((product, index) =>
          card(product, {
            fresh: fresh.has(product.id),
            opened: () =>
              client.tracker.trackRecommendationClick({
                ...common(index + 1),
                itemId: product.id,
                itemName: product.name,
                strategyId: product.strategy ?? 'unknown',
              }),
          }),
        ),
      ),
    );
    watcher = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      client.tracker.trackRecommendationView({
        url: location.href,
        podId: id,
        numResultsViewed: products.length,
        items: products.map((each) => ({ itemId: each.id, itemName: each.name })),
        resultCount: products.length,
        resultPage: 1,
        resultId: json.result_id,
      });
    }, { threshold: 0.4 });
    watcher.observe(body);
  }

  load();
  return Object.assign(section, { reload: () => load({ quietly: true }), leave: () => watcher?.disconnect() });
}
