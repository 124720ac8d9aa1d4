// Node's usual way to build it: fastify and ioredis, doing what `pdp_similar` does. 200 candidates
// of the seed come from Redis, five rules choose among them, 20 items' documents come from Redis.
//
//   BENCH_REDIS=redis://127.0.0.1:6379/1 node server.js PORT
import { randomUUID } from 'node:crypto';
import Fastify from 'fastify';
import { Redis } from 'ioredis';

const rules = JSON.parse(process.env.BENCH_RULES);
const redis = new Redis(process.env.BENCH_REDIS);
const app = Fastify({ logger: false });

function choose(candidates, want) {
  const competing = [];
  let position = 0;
  candidates.forEach((candidate, index) => {
    const [, brand, department, , price] = candidate;
    if (department === rules.exclude_department) return;
    if (price !== null && price >= rules.exclude_price_from) return;
    position += 1; // counts what no rule left out
    let place = position;
    if (brand === rules.boost_brand) place /= 2 ** (rules.boost_strength / 2);
    if (department === rules.bury_department) place *= 2 ** (rules.bury_strength / 2);
    competing.push([place, index, candidate]);
  });
  competing.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const listed = [];
  const taken = new Set();
  const seen = new Map();
  for (const [, index, candidate] of competing) {
    if (listed.length >= rules.cap_first) break;
    const kind = candidate[3];
    const count = seen.get(kind) ?? 0;
    if (kind !== null && count >= rules.cap_count) continue;
    seen.set(kind, count + 1);
    taken.add(index);
    listed.push(candidate);
  }
  for (const [, index, candidate] of competing) {
    if (listed.length >= want) break;
    if (!taken.has(index)) listed.push(candidate);
  }
  return listed.slice(0, want);
}

app.get('/recommendations/v1/pods/pdp_similar', async (request, reply) => {
  const { key, item_id: itemId } = request.query;
  const want = Number(request.query.num_results ?? 20);
  if (key !== process.env.BENCH_KEY) return reply.code(401).send({ message: 'unknown key' });
  const raw = await redis.get(`similar:${itemId}`);
  const chosen = raw ? choose(JSON.parse(raw), want) : [];
  const documents = chosen.length ? await redis.mget(chosen.map((c) => `item:${c[0]}`)) : [];
  const results = documents.map((document, index) => {
    const item = JSON.parse(document);
    return {
      value: item.value,
      data: item.data,
      labels: {},
      matched_terms: [],
      is_slotted: false,
      strategy: { id: chosen[index][6] },
      reason: chosen[index][5],
    };
  });
  return {
    request: { pod_id: 'pdp_similar', item_id: itemId, num_results: want },
    response: {
      results,
      total_num_results: results.length,
      pod: { id: 'pdp_similar', display_name: 'Similar products' },
    },
    result_id: randomUUID(),
  };
});

await app.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 4096 });
