// The shop's pages. Each gives its title and its content.

import { client, config, shopData } from './api.js';
import { cart } from './cart.js';
import { make, plural, say } from './dom.js';
import { addToCart, card, pod, price } from './pods.js';
import { tile } from './tiles.js';

const heading = (text) => make('h1', { tabindex: '-1' }, text);
const nothing = (text, ...more) => make('div', { class: 'state' }, make('p', {}, text), ...more);

export function home() {
  return {
    title: config.name,
    content: [
      make('div', { class: 'hero' }, heading(config.name), make('p', {}, config.about)),
      pod(config.pods.forYou, {
        title: 'For you',
        about: 'Changes with each product that you look at. Who is new here gets what sells.',
        parameters: { numResults: 12 },
        remember: true,
      }),
      pod(config.pods.popular, { title: 'Popular', about: 'What sells most now.', parameters: { numResults: 12 } }),
    ],
  };
}

export async function category(id, query) {
  const page = Math.max(1, Number.parseInt(query.get('page') ?? '1', 10) || 1);
  const group = await shopData(`groups/${encodeURIComponent(id)}?page=${page}`);
  if (!group) return missing('There is no such category.');
  const trail = group.parent
    ? make('nav', { 'aria-label': 'Breadcrumb', class: 'trail' }, make('a', { href: `/shop/category/${encodeURIComponent(group.parent.id)}` }, group.parent.name), ' › ', make('span', { 'aria-current': 'page' }, group.name))
    : null;
  return {
    title: group.name,
    content: [
      trail,
      heading(group.name),
      group.children.length > 0 &&
        make('ul', { class: 'chips', 'aria-label': 'Categories' }, group.children.map((child) => make('li', {}, make('a', { href: `/shop/category/${encodeURIComponent(child.id)}` }, child.name)))),
      page === 1 &&
        pod(config.pods.popular, {
          title: `Popular in ${group.name}`,
          parameters: { numResults: 6, filters: { group_id: [group.id] } },
          empty: 'Nothing here has been bought lately.',
        }),
      listing(group, 'All products', (next) => `/shop/category/${encodeURIComponent(id)}?page=${next}`),
    ],
  };
}

function listing(found, title, link, opened = () => {}) {
  return make(
    'section',
    { 'aria-labelledby': 'listing' },
    make('h2', { id: 'listing' }, title, ' ', make('span', { class: 'quiet' }, plural(found.total, 'product'))),
    make('ul', { class: 'cards grid' }, found.products.map((product) => card(product, { opened: () => opened(product) }))),
    make(
      'nav',
      { class: 'pages', 'aria-label': 'Pages' },
      found.page > 1 && make('a', { href: link(found.page - 1), rel: 'prev' }, '‹ Previous'),
      found.pages > 1 && make('span', {}, `Page ${found.page} of ${found.pages}`),
      found.page < found.pages && make('a', { href: link(found.page + 1), rel: 'next' }, 'Next ›'),
    ),
  );
}

export async function search(query) {
  const term = (query.get('term') ?? '').trim();
  const page = Math.max(1, Number.parseInt(query.get('page') ?? '1', 10) || 1);
  if (!term) return missing('Say what you are looking for.');
  const found = await shopData(`search?term=${encodeURIComponent(term)}&page=${page}`);
  if (page === 1) {
    client.tracker.trackSearchSubmit(term, { originalQuery: term });
    client.tracker.trackSearchResultsLoaded(term, {
      url: location.href,
      items: found.products.map((each) => ({ itemId: each.id, itemName: each.name })),
      resultCount: found.total,
      resultPage: page,
    });
  }
  say(plural(found.total, 'product') + ' found');
  return {
    title: `“${term}”`,
    content: [
      heading(`Results for “${term}”`),
      found.total
        ? listing(found, 'Found', (next) => `/shop/search?term=${encodeURIComponent(term)}&page=${next}`, (product) =>
            client.tracker.trackSearchResultClick(term, { itemId: product.id, itemName: product.name }))
        : nothing(`Nothing is called “${term}”. Try one word of it.`),
      !found.total && pod(config.pods.popular, { title: 'Popular', parameters: { numResults: 6 } }),
    ],
  };
}

export async function product(id) {
  const item = await shopData(`items/${encodeURIComponent(id)}`);
  if (!item) return missing('This product is not in the shop.');
  client.tracker.trackItemDetailLoad({ itemId: item.id, itemName: item.name, url: location.href });
  const facts = Object.entries({ Brand: item.brand, Size: item.size, Department: item.department, Category: item.category, Type: item.type });
  return {
    title: item.name,
    content: [
      make('nav', { 'aria-label': 'Breadcrumb', class: 'trail' }, item.trail.flatMap((group, index) => [
        index ? ' › ' : null,
        make('a', { href: `/shop/category/${encodeURIComponent(group.id)}` }, group.name),
      ])),
      make(
        'article',
        { class: 'product' },
        tile(item),
        make(
          'div',
          {},
          heading(item.name),
          make('p', { class: 'price big' }, price(item.price), item.estimated && make('span', { class: 'quiet' }, ' estimated')),
          make('dl', { class: 'facts' }, facts.filter(([, value]) => value).flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)])),
          make('button', { type: 'button', class: 'main-action', onclick: () => addToCart(item) }, 'Add to cart'),
        ),
      ),
      pod(config.pods.similar, {
        title: 'Similar products',
        parameters: { itemIds: [item.id], numResults: 12 },
        empty: 'Nothing is known to be similar to this product yet.',
      }),
      pod(config.pods.complements, {
        title: 'Goes well with it',
        parameters: { itemIds: [item.id], numResults: 12 },
        empty: 'Nobody has bought anything with this product yet.',
      }),
    ],
  };
}

export function basket({ go }) {
  const lines = cart.lines();
  if (!lines.length) {
    return {
      title: 'Cart',
      content: [
        heading('Your cart'),
        nothing('It is empty.', make('p', {}, make('a', { href: '/shop/' }, 'Look around'))),
        pod(config.pods.popular, { title: 'Popular', parameters: { numResults: 6 } }),
      ],
    };
  }
  const row = ({ product: item, quantity }) =>
    make(
      'tr',
      { 'data-item': item.id },
      make('th', { scope: 'row' }, make('a', { href: `/shop/product/${encodeURIComponent(item.id)}`, class: 'line' }, tile(item), make('span', {}, item.name))),
      make('td', {}, make('input', {
        type: 'number', min: 0, max: 99, value: quantity, 'aria-label': `Quantity of ${item.name}`,
        onchange: (event) => {
          cart.set(item.id, Math.max(0, Math.min(99, Number.parseInt(event.target.value, 10) || 0)));
          go('/shop/cart', { replace: true, keepFocus: true });
        },
      })),
      make('td', { class: 'number' }, price((item.price ?? 0) * quantity)),
      make('td', {}, make('button', {
        type: 'button', class: 'quiet-action', 'aria-label': `Remove ${item.name}`,
        onclick: () => { cart.set(item.id, 0); say(`${item.name} removed`); go('/shop/cart', { replace: true }); },
      }, 'Remove')),
    );
  const buy = () => {
    const items = lines.map((line) => ({ itemId: line.product.id, itemName: line.product.name, count: line.quantity, price: line.product.price ?? 0 }));
    const orderId = crypto.randomUUID();
    client.tracker.trackPurchase({ items, revenue: Number(cart.total().toFixed(2)), orderId });
    cart.empty();
    go('/shop/thanks');
  };
  return {
    title: 'Cart',
    content: [
      heading('Your cart'),
      make(
        'table',
        { class: 'lines' },
        make('thead', {}, make('tr', {}, ...['Product', 'Quantity', 'Price'].map((text) => make('th', { scope: 'col' }, text)), make('td'))),
        make('tbody', {}, lines.map(row)),
        make('tfoot', {}, make('tr', {}, make('th', { scope: 'row' }, 'Total'), make('td', {}, plural(cart.count(), 'piece')), make('td', { class: 'number' }, price(cart.total())), make('td'))),
      ),
      make('button', { type: 'button', class: 'main-action', onclick: buy }, 'Buy'),
      pod(config.pods.complements, {
        title: 'Goes well with your cart',
        about: 'What others bought with these together.',
        parameters: { itemIds: lines.map((line) => line.product.id), numResults: 12 },
        empty: 'Nothing is known to go with these yet.',
      }),
    ],
  };
}

export function thanks() {
  return {
    title: 'Thank you',
    content: [
      make('div', { class: 'hero' }, heading('Thank you'), make('p', {}, 'The purchase is tracked: it teaches the strategies, and is counted for the lists that led to it. Nothing was charged.'), make('a', { href: '/shop/', class: 'main-action' }, 'Go on')),
      pod(config.pods.forYou, { title: 'For you', parameters: { numResults: 6 } }),
    ],
  };
}

export function missing(text = 'There is no such page.') {
  return {
    title: 'Not found',
    content: [heading('Not found'), nothing(text, make('p', {}, make('a', { href: '/shop/' }, 'To the shop'))), pod(config.pods.popular, { title: 'Popular', parameters: { numResults: 6 } })],
  };
}
