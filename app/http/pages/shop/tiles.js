// The data has no pictures: a tile drawn from a product's category stands in for one.

import { draw } from './dom.js';

// Line drawings on a 24 by 24 grid; the first whose words are in the category or name is taken.
const DRAWINGS = [
  [/wine|champagne|spirit|liquor|cordial/, 'M8 3h8l1 6a5 5 0 0 1-10 0zM12 14v6M8 21h8'],
  [/beer|ale\b|soft drink|juice|water|drink|tea\b|soda|isotonic|punch/, 'M9 2h6v4l2 4v11H7V10l2-4zM7 13h10'],
  [/coffee|cocoa|cup|mug/, 'M4 8h13v6a6 6 0 0 1-6 6h-1a6 6 0 0 1-6-6zM17 9h2a2 2 0 0 1 0 6h-2M8 2v3M12 2v3'],
  [/milk|cream|dairy|yogurt|butter|margarine/, 'M8 3h8v4l2 4v10H6V11l2-4zM6 12h12'],
  [/cheese/, 'M3 13 14 5a7 7 0 0 1 7 8v6H3zM3 13h18M8 17h.1M15 16h.1'],
  [/egg/, 'M12 3c4 0 6 6 6 10a6 6 0 0 1-12 0c0-4 2-10 6-10z'],
  [/bread|bun|roll|bagel|bakery|pastry|cake|donut|pie|muffin|cookie|cracker|sweet good|waffle/, 'M5 10a4 4 0 0 1 1-7h12a4 4 0 0 1 1 7v10H5zM9 10v5M13 10v5'],
  [/seafood|fish|tuna|shrimp|salmon/, 'M3 12c4-7 11-7 15-2l3-3v10l-3-3c-4 5-11 5-15-2zM8 11h.1'],
  [/meat|beef|pork|chicken|turkey|sausage|bacon|ham|hot dog|deli|lunch|poultry|lamb/, 'M14 3a6 6 0 0 1 4 10c-2 2-5 2-7 4l-3 3a2 2 0 1 1-3-1 2 2 0 1 1-1-3l3-3c2-2 2-5 4-7a6 6 0 0 1 3-3z'],
  [/frozen|ice\b|frzn/, 'M12 2v20M4 7l16 10M20 7 4 17M9 4l3 2 3-2M9 20l3-2 3 2'],
  [/banana|fruit|apple|grape|berr|citrus|melon|peach|tropical|orange/, 'M12 7c-5-3-9 1-8 6s4 8 8 7c4 1 7-2 8-7s-3-9-8-6zM12 7c0-2 1-4 3-5'],
  [/vegetable|salad|produce|onion|potato|tomato|carrot|pepper|corn|bean|mushroom|herb/, 'M12 22c-5-4-7-9-4-14 3 2 4 5 4 8 0-4 1-8 5-11 2 6 0 12-5 17zM12 22v-6'],
  [/cereal|pasta|rice|noodle|flour|baking|sugar|grain|breakfast/, 'M5 3h14v18H5zM5 8h14M9 12h6v5H9z'],
  [/soup|sauce|canned|shelf|condiment|salsa|dressing|oil|olive|pickle|spice|seasoning|jam|jelly|peanut/, 'M7 3h10v3H7zM6 6h12v15H6zM6 11h12v5H6z'],
  [/candy|chocolate|gum|snack|chip|popcorn|nut|pretzel/, 'M6 4h12l-1 3 1 14H6L7 7zM9 12c2-2 4 2 6 0'],
  [/baby|infant|diaper/, 'M9 2h6M10 2v4h4V2M7 8a5 5 0 0 1 10 0v13H7zM7 13h4M7 17h4'],
  [/pet|dog|cat|bird/, 'M12 12c3 0 6 3 6 6s-3 2-6 2-6 1-6-2 3-6 6-6zM6 9h.1M10 6h.1M14 6h.1M18 9h.1'],
  [/flor|flower|plant|garden|rose|bouquet/, 'M12 13v9M12 18c-3 0-5-1-6-4 3 0 5 1 6 4zM12 4a3 3 0 0 1 3 3 3 3 0 0 1-3 6 3 3 0 0 1-3-6 3 3 0 0 1 3-3z'],
  [/hair|shampoo|soap|skin|cosmetic|makeup|facial|deodorant|shav|oral|tooth|fragrance|bath|hygiene/, 'M9 8h6v13H9zM10 8V5h4M12 5V3h4'],
  [/vitamin|medic|remed|cold|pain|allerg|antacid|pharm|first aid|diet|nutrition/, 'M7 14 14 7a4 4 0 0 1 6 6l-7 7a4 4 0 0 1-6-6zM10 11l6 6'],
  [/clean|detergent|laundry|bleach|fabric|dish|air care|household|bag|foil|trash/, 'M10 3h4v4l3 3v11H7V10l3-3zM14 4h4M7 15h10'],
  [/paper|towel|tissue|napkin|stationery|card|school|office|magazine|book/, 'M6 3h9l4 4v14H6zM15 3v4h4M9 12h7M9 16h7'],
  [/light|lamp|candle|christmas|lantern|battery|electric/, 'M9 18h6M10 21h4M12 3a6 6 0 0 1 4 10l-1 3H9l-1-3a6 6 0 0 1 4-10z'],
  [/toy|game|doll|party|balloon|seasonal|gift|decoration|ornament/, 'M4 10h16v11H4zM3 7h18v3H3zM12 7v14M12 7c-6-1-4-6 0 0 4-6 6-1 0 0z'],
  [/clock|watch|frame|mirror|sign|jewel|necklace|ring\b/, 'M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16zM12 8v4l3 2'],
];
const BASKET = 'M4 10h16l-2 10H6zM8 10l3-6M16 10l-3-6M9 14v3M15 14v3';

function hue(text) {
  let sum = 7;
  for (const character of text) sum = (sum * 31 + character.codePointAt(0)) % 3600;
  return sum / 10;
}

export function tile(product) {
  const kind = `${product.category ?? ''} ${product.department ?? ''}`.toLowerCase();
  const name = product.name.toLowerCase();
  const [, path] = DRAWINGS.find(([words]) => words.test(kind)) ?? DRAWINGS.find(([words]) => words.test(name)) ?? [null, BASKET];
  const picture = draw('svg', { viewBox: '0 0 48 36', class: 'tile', 'aria-hidden': 'true', focusable: 'false' });
  picture.style.setProperty('--hue', hue(kind.trim() || name).toFixed(0));
  picture.append(
    draw('rect', { width: 48, height: 36, class: 'tile-ground' }),
    draw('circle', { cx: 8 + (hue(name) % 32), cy: 34, r: 16, class: 'tile-shade' }),
    draw('path', { d: path, transform: 'translate(12 6)', class: 'tile-line' }),
  );
  return picture;
}
