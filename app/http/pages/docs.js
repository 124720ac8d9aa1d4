// Renders /openapi.json. No library: the document is ours, and small.

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};

/** Text in which `this` is code. */
const prose = (text) =>
  text.split('`').map((part, index) => (index % 2 ? make('code', {}, part) : part));

const resolve = (spec, value) =>
  value?.$ref ? value.$ref.split('/').slice(1).reduce((part, step) => part[step], spec) : value;

const nameOf = (reference) => reference.split('/').pop().split('.').pop();

/** A type in words: "array of Item", "integer 1 … 100". */
function words(schema) {
  if (!schema || Object.keys(schema).length === 0) return 'any JSON';
  if (schema.$ref) return nameOf(schema.$ref);
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.map(words).join(' or ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (schema.type === 'array') {
    if (schema.prefixItems) return `[${schema.prefixItems.map(words).join(', ')}]`;
    return `array of ${words(schema.items)}`;
  }
  if (schema.type === 'object' && typeof schema.additionalProperties === 'object') {
    return `object of ${words(schema.additionalProperties)}`;
  }
  const bounds = [
    schema.minimum !== undefined ? `≥ ${schema.minimum}` : null,
    schema.exclusiveMinimum !== undefined ? `> ${schema.exclusiveMinimum}` : null,
    schema.maximum !== undefined ? `≤ ${schema.maximum}` : null,
    schema.minLength ? `at least ${schema.minLength} characters` : null,
    schema.maxLength ? `at most ${schema.maxLength} characters` : null,
    schema.pattern ? `like ${schema.pattern}` : null,
  ].filter(Boolean);
  return [schema.type ?? 'any', ...bounds].join(', ');
}

/** Whether `shape` has something to show. */
function hasShape(spec, schema, seen = []) {
  if (!schema || seen.includes(schema.$ref)) return false;
  if (schema.$ref) return hasShape(spec, resolve(spec, schema), [...seen, schema.$ref]);
  if (schema.type === 'array') return hasShape(spec, schema.items, seen);
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.some((option) => hasShape(spec, option, seen));
  return Boolean(schema.properties);
}

/** The fields of a type. Types within are made when they are opened: some contain themselves. */
function shape(spec, schema) {
  if (!hasShape(spec, schema)) return null;
  if (schema.$ref) return shape(spec, resolve(spec, schema));
  if (schema.type === 'array') return shape(spec, schema.items);
  const options = schema.anyOf ?? schema.oneOf;
  if (options) {
    const shown = options.filter((option) => hasShape(spec, option));
    if (shown.length === 1) return shape(spec, shown[0]);
    return make('div', { class: 'options' }, ...shown.map((option) => closed(`Fields of ${words(option)}`, spec, option)));
  }
  const list = make('dl', { class: 'fields' });
  for (const [name, property] of Object.entries(schema.properties)) {
    const required = (schema.required ?? []).includes(name);
    list.append(
      make(
        'dt',
        {},
        make('code', {}, name),
        ' ',
        make('span', { class: 'type' }, words(property)),
        required ? make('strong', {}, ' required') : null,
      ),
    );
    const detail = make('dd', {});
    if (property.description) detail.append(make('p', {}, ...prose(property.description)));
    if (property.default !== undefined) {
      detail.append(make('p', {}, 'Default: ', make('code', {}, JSON.stringify(property.default))));
    }
    if (hasShape(spec, property)) detail.append(closed(`Fields of ${name}`, spec, property));
    if (detail.childNodes.length) list.append(detail);
  }
  if (!schema.description) return list;
  return make('div', {}, make('p', { class: 'about' }, ...prose(schema.description)), list);
}

function closed(title, spec, schema) {
  const details = make('details', {}, make('summary', {}, title));
  details.addEventListener('toggle', () => details.append(shape(spec, schema)), { once: true });
  return details;
}

function parameters(list) {
  if (!list?.length) return null;
  const body = make('tbody');
  for (const each of list) {
    body.append(
      make(
        'tr',
        {},
        make('th', { scope: 'row' }, make('code', {}, each.name), each.required ? ' *' : ''),
        make('td', {}, each.in),
        make('td', {}, words(each.schema)),
        make(
          'td',
          {},
          ...prose(each.description ?? ''),
          each.example !== undefined
            ? make('div', {}, 'e.g. ', make('code', {}, JSON.stringify(each.example)))
            : null,
        ),
      ),
    );
  }
  const head = make('tr', {}, ...['Name', 'In', 'Type', 'Meaning'].map((text) => make('th', { scope: 'col' }, text)));
  return make(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Parameters' },
    make('table', {}, make('caption', {}, 'Parameters (* required)'), make('thead', {}, head), body),
  );
}

function content(spec, title, media) {
  const [type, { schema, example }] = Object.entries(media)[0];
  return make(
    'section',
    {},
    make('h4', {}, `${title}: ${words(schema)} `, make('span', { class: 'type' }, type)),
    shape(spec, schema),
    example === undefined ? null : make('pre', {}, make('code', {}, JSON.stringify(example, null, 2))),
  );
}

function operation(spec, path, method, described) {
  const security = (described.security ?? []).flatMap((each) => Object.keys(each));
  const article = make(
    'article',
    { id: described.operationId, 'data-text': `${method} ${path} ${described.operationId} ${described.summary}`.toLowerCase() },
    make(
      'h3',
      {},
      make('span', { class: `method ${method}` }, method.toUpperCase()),
      ' ',
      make('code', {}, path),
    ),
    make('p', { class: 'lead' }, described.summary),
    ...(described.description ?? '').split('\n\n').filter(Boolean).map((text) => make('p', {}, ...prose(text))),
    make('p', { class: 'type' }, security.length ? `Security: ${security.join(' or ')}` : 'Open to all'),
    parameters(described.parameters),
    described.requestBody ? content(spec, 'Body', described.requestBody.content) : null,
  );
  for (const [status, reference] of Object.entries(described.responses)) {
    const answer = resolve(spec, reference);
    if (status === 'default') continue;
    article.append(
      answer.content
        ? content(spec, `${status} ${answer.description}`, answer.content)
        : make('h4', {}, `${status} ${answer.description}`),
    );
  }
  return article;
}

function render(spec) {
  document.getElementById('title').textContent = `${spec.info.title} API ${spec.info.version}`;
  document.getElementById('summary').textContent = spec.info.summary;
  const main = document.getElementById('main');
  const contents = document.getElementById('contents');
  main.replaceChildren(make('p', { id: 'state', role: 'status', class: 'quiet' }));
  for (const tag of spec.tags) {
    const found = Object.entries(spec.paths).flatMap(([path, methods]) =>
      Object.entries(methods)
        .filter(([, described]) => described.tags.includes(tag.name))
        .map(([method, described]) => [path, method, described]),
    );
    main.append(
      make(
        'section',
        { class: 'tag', 'aria-labelledby': `tag-${tag.name}` },
        make('h2', { id: `tag-${tag.name}` }, tag.name),
        make('p', {}, tag.description),
        ...found.map((each) => operation(spec, ...each)),
      ),
    );
    contents.append(
      make('h2', {}, tag.name),
      make(
        'ul',
        {},
        ...found.map(([path, method, described]) =>
          make(
            'li',
            { 'data-for': described.operationId },
            make('a', { href: `#${described.operationId}` },
              make('span', { class: `method ${method}` }, method.toUpperCase()), ' ', path),
          ),
        ),
      ),
    );
  }
}

function find(text) {
  const wanted = text.trim().toLowerCase();
  let shown = 0;
  for (const article of document.querySelectorAll('article')) {
    article.hidden = !article.dataset.text.includes(wanted);
    if (!article.hidden) shown += 1;
    const entry = document.querySelector(`[data-for="${article.id}"]`);
    if (entry) entry.hidden = article.hidden;
  }
  for (const section of document.querySelectorAll('section.tag')) {
    section.hidden = !section.querySelector('article:not([hidden])');
  }
  document.getElementById('state').textContent = wanted ? `${shown} operations found` : '';
}

try {
  const answer = await fetch('/openapi.json');
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  render(await answer.json());
  document.getElementById('find').addEventListener('input', (event) => find(event.target.value));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  document.getElementById('state').textContent = `The document could not be loaded: ${error.message}.`;
}
