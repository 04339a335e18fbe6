// SPDX-License-Identifier: MIT OR Apache-2.0
import 'reflect-metadata';
import { appendFileSync } from 'node:fs';
import { Controller, Get, Injectable, Module, OnApplicationShutdown } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

@Injectable()
class About implements OnApplicationShutdown {
  tell() {
    return { pid: process.pid, generation: process.env.APP_CLUSTER_GENERATION };
  }

  onApplicationShutdown() {
    appendFileSync(process.env.HOOKS as string, `${process.pid}\n`);
  }
}

@Controller()
class AppController {
  constructor(private readonly about: About) {}

  @Get()
  tell() {
    return this.about.tell();
  }
}

@Module({ controllers: [AppController], providers: [About] })
class AppModule {}

async function bootstrap() {
  const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'] });
  app.enableShutdownHooks();
  await app.listen(process.env.PORT ?? 3000);
}
bootstrap();
