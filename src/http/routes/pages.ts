/** Pages: create, list, describe, delete. */
import type { ClientBus } from '../../auth/guarded-bus.js'
import type { CreateResult } from '../../engine/types.js'
import type { ErrorCode } from '../../errors.js'
import type { DerivedDefinition, PageDefinition, SourceDefinition } from '../../state/types.js'
import type { App } from '../context.js'
import { NameParams } from '../schemas/common.js'
import { NoQuery } from '../schemas/data.js'
import {
  DeleteQuery,
  EpochAnswer,
  Page,
  PageBody,
  PageList,
  PageListQuery,
  PagesAnswer,
  PagesBody,
} from '../schemas/pages.js'
import type { Type } from '../typebox.js'

const CREATE_PROBLEMS: readonly ErrorCode[] = [
  'PAGE_NOT_FOUND',
  'PAGE_EXISTS',
  'GRAPH_CYCLE',
  'INVALID_EXPRESSION',
  'SHAPE_MISMATCH',
  'UNSUPPORTED_LOCATION',
  'COST_EXCEEDED',
  'OUT_OF_MEMORY',
  'QUOTA_EXCEEDED',
  'LOG_FULL',
]

export function pageRoutes(app: App): void {
  app.put(
    '/v1/pages/:name',
    {
      schema: {
        operationId: 'createPage',
        summary: 'Create a page',
        description: 'A source page is written by clients; a derived page is computed from other pages.',
        tags: ['pages'],
        params: NameParams,
        querystring: NoQuery,
        body: PageBody,
        response: { 200: Page, 201: Page },
      },
      config: {
        needs: ['define', 'read'],
        answers: { 200: 'The page exists already with the same definition', 201: 'Created' },
        problems: CREATE_PROBLEMS,
      },
    },
    async (request, reply) => {
      const { name } = request.params
      const { created, page } = await create(
        request.bus,
        name,
        request.body as SourceDefinition | DerivedDefinition,
      )
      return reply.code(created ? 201 : 200).send(page as Type.Static<typeof Page>)
    },
  )

  app.post(
    '/v1/pages',
    {
      schema: {
        operationId: 'createPages',
        summary: 'Create several pages together',
        description:
          'Creates all of them in one epoch, or none. A derived page may use pages that come before it in the list, and with `prev` any page of the list.',
        tags: ['pages'],
        querystring: NoQuery,
        body: PagesBody,
        response: { 201: PagesAnswer },
      },
      config: { needs: ['define', 'read'], answers: { 201: 'Created' }, problems: CREATE_PROBLEMS },
    },
    async (request, reply) => {
      const pages = request.body.pages.map(({ name, ...definition }) => ({
        name,
        definition: definition as PageDefinition,
      }))
      const created = await request.bus.createMany(pages)
      return reply.code(201).send(created as Type.Static<typeof PagesAnswer>)
    },
  )

  app.get(
    '/v1/pages',
    {
      schema: {
        operationId: 'listPages',
        summary: 'List pages in the order of their names',
        tags: ['pages'],
        querystring: PageListQuery,
        response: { 200: PageList },
      },
      config: { needs: ['read'] },
    },
    (request, reply) => {
      void reply.send(request.bus.pages(request.query) as Type.Static<typeof PageList>)
    },
  )

  app.get(
    '/v1/pages/:name',
    {
      schema: {
        operationId: 'getPage',
        summary: 'Describe a page',
        tags: ['pages'],
        params: NameParams,
        querystring: NoQuery,
        response: { 200: Page },
      },
      config: { needs: ['read'], problems: ['PAGE_NOT_FOUND'] },
    },
    (request, reply) => {
      void reply.send(request.bus.page(request.params.name) as Type.Static<typeof Page>)
    },
  )

  app.delete(
    '/v1/pages/:name',
    {
      schema: {
        operationId: 'deletePage',
        summary: 'Delete a page',
        description: '`cascade=true` also deletes every page that derives from it.',
        tags: ['pages'],
        params: NameParams,
        querystring: DeleteQuery,
        response: { 200: EpochAnswer },
      },
      config: { needs: ['define'], problems: ['PAGE_NOT_FOUND', 'PAGE_IN_USE', 'LOG_FULL'] },
    },
    async (request) => {
      const { cascade } = request.query
      return request.bus.delete(request.params.name, cascade === undefined ? {} : { cascade })
    },
  )
}

function create(
  bus: ClientBus,
  name: string,
  definition: SourceDefinition | DerivedDefinition,
): Promise<CreateResult> {
  if (!('derive' in definition)) return bus.create(name, definition)
  const { derive, ...options } = definition
  return bus.derive(name, derive, options)
}
