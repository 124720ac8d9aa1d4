resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_12:nothing is put into the default group
  cidr_block           = "10.${var.network_number}.0.0/16"
  enable_dns_hostnames = true
  tags                 = { Name = local.name }
}
resource "aws_internet_gateway" "this" { vpc_id = aws_vpc.this.id }
resource "aws_subnet" "public" {
  count             = 2
  vpc_id            = aws_vpc.this.id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(aws_vpc.this.cidr_block, 4, count.index)
}
resource "aws_subnet" "private" {
  count             = 2
  vpc_id            = aws_vpc.this.id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(aws_vpc.this.cidr_block, 4, count.index + 2)
}
resource "aws_eip" "nat" {
  #checkov:skip=CKV2_AWS_19:they are the NAT gateways'
  count  = var.nat_gateways
  domain = "vpc"
}
resource "aws_nat_gateway" "this" {
  count         = var.nat_gateways
  subnet_id     = aws_subnet.public[count.index].id
  allocation_id = aws_eip.nat[count.index].id
  depends_on    = [aws_internet_gateway.this]
}
resource "aws_route_table" "public" { vpc_id = aws_vpc.this.id }
resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}
resource "aws_route_table" "private" {
  count  = 2
  vpc_id = aws_vpc.this.id
}
resource "aws_route" "private" {
  count                  = 2
  route_table_id         = aws_route_table.private[count.index].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[count.index % var.nat_gateways].id
}
resource "aws_route_table_association" "public" {
  count          = 2
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public.id
}
resource "aws_route_table_association" "private" {
  count          = 2
  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[count.index].id
}
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${data.aws_region.here.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = aws_route_table.private[*].id
}
resource "aws_cloudwatch_log_group" "flow" {
  #checkov:skip=CKV_AWS_338:two weeks are enough to look at an incident
  name              = "/vitrine/${var.environment}/flow"
  retention_in_days = 14
  kms_key_id        = aws_kms_key.this.arn
}
resource "aws_iam_role" "flow" {
  name_prefix        = "${local.name}-flow-"
  assume_role_policy = local.assume["vpc-flow-logs"]
}
resource "aws_iam_role_policy" "flow" {
  role = aws_iam_role.flow.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${aws_cloudwatch_log_group.flow.arn}:*"
    }]
  })
}
resource "aws_flow_log" "this" {
  vpc_id          = aws_vpc.this.id
  traffic_type    = "REJECT"
  log_destination = aws_cloudwatch_log_group.flow.arn
  iam_role_arn    = aws_iam_role.flow.arn
}
resource "aws_security_group" "this" {
  #checkov:skip=CKV2_AWS_5:each is attached, by for_each
  for_each = {
    balancer = "Browsers to the load balancer"
    service  = "Tasks of Vitrine"
    database = "PostgreSQL"
    redis    = "Redis"
    spool    = "File system of the spool"
  }
  name_prefix = "${local.name}-${each.key}-"
  description = each.value
  vpc_id      = aws_vpc.this.id
}
resource "aws_vpc_security_group_ingress_rule" "outside" {
  #checkov:skip=CKV_AWS_260:port 80 answers with the way to 443, and nothing else
  for_each          = { "80" = "sent on to HTTPS", "443" = "HTTPS" }
  security_group_id = aws_security_group.this["balancer"].id
  description       = each.value
  ip_protocol       = "tcp"
  from_port         = tonumber(each.key)
  to_port           = tonumber(each.key)
  cidr_ipv4         = "0.0.0.0/0"
}
locals {
  ways = {
    service  = { from = "balancer", port = 8000, description = "the load balancer to tasks" }
    database = { from = "service", port = 5432, description = "tasks to PostgreSQL" }
    redis    = { from = "service", port = 6379, description = "tasks to Redis" }
    spool    = { from = "service", port = 2049, description = "tasks to the spool" }
  }
}
resource "aws_vpc_security_group_ingress_rule" "inside" {
  for_each                     = local.ways
  security_group_id            = aws_security_group.this[each.key].id
  referenced_security_group_id = aws_security_group.this[each.value.from].id
  description                  = each.value.description
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}
resource "aws_vpc_security_group_egress_rule" "inside" {
  for_each                     = local.ways
  security_group_id            = aws_security_group.this[each.value.from].id
  referenced_security_group_id = aws_security_group.this[each.key].id
  description                  = each.value.description
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}
resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.this["service"].id
  description       = "AWS and webhooks"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}
