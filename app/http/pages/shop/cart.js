// The cart, kept in this browser.

import { say } from './dom.js';

const NAME = 'shop-cart';

export const cart = Object.assign(new EventTarget(), {
  lines() {
    try {
      return JSON.parse(localStorage.getItem(NAME)) ?? [];
    } catch {
      return [];
    }
  },
  count() {
    return this.lines().reduce((sum, line) => sum + line.quantity, 0);
  },
  total() {
    return this.lines().reduce((sum, line) => sum + line.quantity * (line.product.price ?? 0), 0);
  },
  add(product) {
    const lines = this.lines();
    const line = lines.find((each) => each.product.id === product.id);
    if (line) line.quantity += 1;
    else lines.push({ product, quantity: 1 });
    this.save(lines);
    say(`${product.name} is in the cart`);
  },
  set(id, quantity) {
    const lines = this.lines().map((line) => (line.product.id === id ? { ...line, quantity } : line));
    this.save(lines.filter((line) => line.quantity > 0));
  },
  empty() {
    this.save([]);
  },
  save(lines) {
    localStorage.setItem(NAME, JSON.stringify(lines));
    this.dispatchEvent(new Event('change'));
  },
});
