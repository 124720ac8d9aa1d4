// The real storefront client, and a record of the calls that it makes.

import ConstructorioClient from './client.js';

export const config = await fetch('/shop/config.json').then((answer) => {
  if (!answer.ok) throw new Error(`the shop's configuration answered ${answer.status}`);
  return answer.json();
});

const KEPT = 30;
export const calls = Object.assign(new EventTarget(), { list: [], total: 0 });

function summary(json) {
  const results = json?.response?.results;
  if (!results) return json?.message ?? '';
  const strategies = [...new Set(results.map((result) => result.strategy?.id).filter(Boolean))];
  return `${results.length} results${strategies.length ? ` by ${strategies.join(', ')}` : ''}`;
}

async function recordedFetch(url, options = {}) {
  const call = {
    method: options.method ?? 'GET',
    url: new URL(url, location.href),
    body: options.body ?? null,
    status: 'sent',
    summary: '',
    began: performance.now(),
  };
  calls.list.unshift(call);
  calls.list.length = Math.min(calls.list.length, KEPT);
  calls.total += 1;
  const changed = () => calls.dispatchEvent(new Event('change'));
  changed();
  try {
    const answer = await fetch(url, options);
    call.status = answer.status;
    call.milliseconds = performance.now() - call.began;
    answer.clone().json().then((json) => { call.summary = summary(json); changed(); }, () => {});
    changed();
    return answer;
  } catch (error) {
    call.status = 'failed';
    call.milliseconds = performance.now() - call.began;
    changed();
    throw error;
  }
}

export const client = new ConstructorioClient({
  apiKey: config.key,
  serviceUrl: location.origin,
  allowHttpServiceUrl: true,
  sendTrackingEvents: true,
  trackingSendDelay: 0,
  fetch: recordedFetch,
});

/** The shop's own catalogue: this is the shop's data, not Vitrine's API. */
export async function shopData(path) {
  const answer = await fetch(`/shop/data/${path}`);
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`the shop answered ${answer.status}`);
  return answer.json();
}

export function forgetShopper() {
  document.cookie = 'ConstructorioID_client_id=; path=/; max-age=0';
  for (const storage of [localStorage, sessionStorage]) {
    for (const name of Object.keys(storage)) {
      if (/constructorio/i.test(name) || name.startsWith('shop-')) storage.removeItem(name);
    }
  }
}

/** A result of the API as the page shows products. */
export function productOf(result) {
  const data = result.data ?? {};
  const facet = (name) => data.facets?.find?.((each) => each.name === name)?.values?.[0] ?? data[name];
  return {
    id: data.id,
    name: result.value,
    price: data.price,
    brand: data.label ?? facet('brand'),
    size: facet('size'),
    department: facet('department'),
    category: facet('category') ?? facet('type'),
    strategy: result.strategy?.id,
    reason: result.reason,
    resultId: result.result_id,
  };
}
